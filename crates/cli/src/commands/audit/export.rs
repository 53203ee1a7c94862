//! `orlop audit export`

use crate::args::Context;
use orlop_model::{Error, Result};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes the whole journal to a file that can be verified anywhere, without a daemon.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file; - writes to standard output.
    #[arg(long, value_name = "F")]
    file: PathBuf,
}

pub(crate) async fn run(args: &Args, cx: &Context) -> Result<u8> {
    let mut stream = cx.client.audit_export().await?;
    if args.file == Path::new("-") {
        while let Some(piece) = stream.next().await? {
            cx.ui.raw(&piece)?;
        }
        return Ok(0);
    }
    let shown = args.file.display().to_string();
    let partial = Partial::begin(&args.file)?;
    let mut records = 0;
    while let Some(piece) = stream.next().await? {
        records += piece.iter().filter(|b| **b == b'\n').count();
        (&partial.file).write_all(&piece).map_err(|e| Error::io(format_args!("writing {shown}"), &e))?;
    }
    partial.finish()?;
    cx.ui.show(&json!({ "file": shown, "records": records }), || {
        format!("{records} records are in {shown}; check them anywhere with: orlop audit verify --file {shown}\n")
    })?;
    Ok(0)
}

/// A file that gets its name only when it is whole, and leaves nothing behind otherwise.
struct Partial {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    whole: bool,
}

impl Partial {
    fn begin(target: &Path) -> Result<Partial> {
        let name = target
            .file_name()
            .filter(|_| !target.is_dir())
            .ok_or_else(|| Error::invalid(format!("{} is not the name of a file", target.display())).with_remedy("give --file FILE"))?;
        let temporary = target.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        // The journal names volumes and people: it is for its owner.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| Error::io(format_args!("making {}", target.display()), &e).with_remedy("give a file in an existing folder"))?;
        Ok(Partial { file, temporary, target: target.to_owned(), whole: false })
    }

    fn finish(mut self) -> Result<()> {
        let shown = self.target.display();
        self.file.sync_all().map_err(|e| Error::io(format_args!("writing {shown}"), &e))?;
        std::fs::rename(&self.temporary, &self.target).map_err(|e| Error::io(format_args!("naming {shown}"), &e))?;
        self.whole = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.whole {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
