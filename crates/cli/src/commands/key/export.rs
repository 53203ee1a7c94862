//! `orlop key export`: from the root folder itself, so that it works when nothing else does.

use crate::args::Context;
use orlop_model::{Error, ErrorKind, Result};
use orlop_store::keys::MasterKeys;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Writes the master keys to a file, as a backup; whoever has it and the stores can read all encrypted volumes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A new file, made for its owner only; - writes to standard output. Without it orlop-master-ID.key in this folder.
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, cx: &Context) -> Result<u8> {
    let dir = cx.root.join("keys");
    let keys = MasterKeys::load(&dir).map_err(|e| match e.kind {
        ErrorKind::Denied if e.remedy.is_none() => e.with_remedy("run the command as root"),
        _ => e,
    })?;
    let file = match &args.output_file {
        Some(file) if file == Path::new("-") => {
            cx.ui.raw(keys.export().as_bytes())?;
            note(&keys, &dir);
            return Ok(0);
        }
        Some(file) if file.as_os_str().is_empty() || file.is_dir() => {
            return Err(Error::invalid(format!("{:?} is not the name of a file", file.display().to_string()))
                .with_remedy("give --output-file FILE"));
        }
        Some(file) => file.clone(),
        None => PathBuf::from(format!("orlop-master-{}.key", keys.current().id())),
    };
    keys.export_to(&file).map_err(|e| match e.kind {
        ErrorKind::NotFound => e.with_remedy("give a file in a folder that exists"),
        _ => e,
    })?;
    note(&keys, &dir);
    let shown = std::path::absolute(&file).unwrap_or(file).display().to_string();
    let ids: Vec<String> = keys.all().map(|k| k.id().to_string()).collect();
    cx.ui.show(&json!({ "file": shown, "keys": ids }), || {
        format!(
            "{} master key{} in {shown}; move it away from this host and from the stores\n",
            ids.len(),
            if ids.len() == 1 { " is" } else { "s are" }
        )
    })?;
    Ok(0)
}

/// Best effort: the backup is there, only a later warning may be one too many.
fn note(keys: &MasterKeys, dir: &Path) {
    let _ = keys.note_export(dir);
}
