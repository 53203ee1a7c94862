//! Setting a volume right and collecting what nothing refers to. The volume is mounted: whoever asks holds an attachment.
//!
//! The volume's lock is not taken: both may take hours, the worker keeps them apart from what containers do, and a
//! volume that is held cannot be removed.

use crate::apply::Changed;
use crate::inner::Inner;
use crate::registry::VolumeRow;
use orlop_model::{Error, ErrorKind, Outcome, Result, VolumeKind, VolumeRef};

impl Inner {
    /// An active volume that is made of objects.
    pub(crate) async fn find_chunked(&self, volume: &VolumeRef) -> Result<VolumeRow> {
        let row = self.find_active(volume).await?;
        match row.kind {
            VolumeKind::Chunked => Ok(row),
            VolumeKind::Plain => Err(Error::new(ErrorKind::Unsupported, format!("volume {} is an ordinary folder", row.name))
                .with_remedy("look after it with the tools of its file system")),
        }
    }

    pub(crate) async fn repair(&self, volume: &VolumeRef) -> Result<Changed> {
        let id = self.find_chunked(volume).await?.id;
        let report = self.config.worker.check(id, true).await?;
        Ok((Outcome::Checked(Box::new(report)), Some(id)))
    }

    pub(crate) async fn collect(&self, volume: &VolumeRef) -> Result<Changed> {
        let id = self.find_chunked(volume).await?.id;
        let report = self.config.worker.collect(id, false).await?;
        Ok((Outcome::Collected(Box::new(report)), Some(id)))
    }
}
