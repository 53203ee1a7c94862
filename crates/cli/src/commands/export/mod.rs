//! `orlop export`

mod folder;
mod read;
mod tar;

use crate::args::Context;
use crate::commands::store::settings;
use crate::failure::FOUND;
use crate::progress::Progress;
use crate::ui::Table;
use object_store::ObjectStoreExt;
use orlop_chunkfs::rescue::{self, Rescue};
use orlop_model::{ByteSize, CredentialsRef, Error, ErrorKind, Result, StoreSpec, VolumeId};
use orlop_store::ObjectStore;
use orlop_store::keys::{MasterKeys, sealed_store};
use read::{Sink, Walk};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads a volume out of its store into a folder or a tar file, with no daemon and no registry. Writes nothing to the
/// store and keeps no writer out; exit code 1 when something could not be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume's id; without it the volumes in the store are listed.
    volume: Option<String>,
    /// The store's URL, as `orlop store add` takes it.
    #[arg(long, value_name = "URL")]
    store: String,
    /// A setting of the store, such as endpoint=http://host:9000; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Where the store's credentials are found: env:PREFIX, file:/path, command:/program, instance, container or web-identity.
    #[arg(long, value_name = "REF")]
    credentials: Option<String>,
    /// The file of `orlop key export`, for a sealed volume.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The volume's folder on its host (<root>/state/<id>), which holds what is not in the store yet, and all data of a
    /// volume on a local store. Found by itself if the store is <root>/stores/NAME.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A folder that is empty or does not exist yet, or a file whose name ends with .tar. A folder named as the volume's id if absent.
    #[arg(long, value_name = "DIR|FILE.tar")]
    to: Option<PathBuf>,
}

/// A thing that could not be read whole.
#[derive(Debug, Clone, Serialize)]
struct Damaged {
    /// Its path in the volume.
    path: String,
    /// What could not be read, and why.
    why: String,
}

/// What came out.
#[derive(Debug, Clone, Default, Serialize)]
struct Report {
    volume: String,
    to: String,
    files: u64,
    folders: u64,
    others: u64,
    bytes: u64,
    damaged: Vec<Damaged>,
    notes: Vec<String>,
}

pub(crate) fn run(args: &Args, cx: &Context) -> Result<u8> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::io("starting the runtime", &e))?
        .block_on(export(args, cx))
}

async fn export(args: &Args, cx: &Context) -> Result<u8> {
    let spec = spec(args)?;
    let store = orlop_store::open_spec(&spec)?;
    let volume = match wanted(args, &*store, cx).await? {
        Some(volume) => volume,
        None => return Ok(0),
    };
    let to = args.to.clone().unwrap_or_else(|| PathBuf::from(volume.to_string()));
    let to = to.as_path();
    let prefix = format!("volumes/{volume}");
    let remote = !spec.is_local() || exists(&*store, &format!("{prefix}/owner.json")).await?;
    let state = args.state.clone().or_else(|| beside(&spec, volume).filter(|dir| !remote && rescue::looks_like_state(dir)));
    match &state {
        Some(dir) if args.state.is_none() => cx.ui.note(&format!("note: what the store does not have is read from {}", dir.display())),
        None if !remote => cx.ui.note(
            "note: on a local store the newest changes and all data are in the host's folder of the volume; give it with --state DIR",
        ),
        _ => {}
    }
    if let Some(dir) = &args.state
        && !rescue::looks_like_state(dir)
    {
        return Err(Error::invalid(format!("{} is not the folder of a volume on its host", dir.display()))
            .with_remedy("it has the folders journal and staged: <root>/state/<volume id>"));
    }
    let store = unsealed(store, &prefix, args.key.as_deref()).await?;
    // Beside what comes out, where there is room for it.
    let near = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = Scratch::new(near)?;
    let fs = rescue::open(&Rescue { volume, store, prefix, remote, state_dir: state, scratch: scratch.0.clone() }).await;
    let fs = fs.map_err(|e| {
        let remedy = "orlop check names what is damaged; without --state the store alone is read";
        if e.remedy.is_some() { e } else { e.with_remedy(remedy) }
    })?;
    let mut sink: Box<dyn Sink> = match to.extension().is_some_and(|e| e == "tar") {
        true => Box::new(tar::TarFile::create(to, &scratch.0)?),
        false => Box::new(folder::Folder::create(to)?),
    };
    let mut progress = Progress::new(&cx.ui);
    let total = fs.usage().used_bytes;
    let report = Report { volume: volume.to_string(), to: to.display().to_string(), ..Report::default() };
    let mut walk = Walk::new(&fs, &mut *sink, report, |path, done| progress.show(path, done, total));
    let walked = walk.all().await;
    let mut report = walk.report;
    progress.end();
    walked?;
    report.notes.extend(sink.finish()?);
    // Nothing of this opening is to be kept.
    fs.abandon().await;
    cx.ui.show(&report, || text(&report))?;
    Ok(if report.damaged.is_empty() { 0 } else { FOUND })
}

/// Where the host keeps the rest of a volume whose store is the folder of a root: `<root>/stores/<name>`.
fn beside(spec: &StoreSpec, volume: VolumeId) -> Option<PathBuf> {
    let store = orlop_store::folder_of(spec)?;
    let stores = store.parent().filter(|dir| dir.ends_with("stores"))?;
    Some(stores.with_file_name("state").join(volume.to_string()))
}

/// What is refused here is not repeated: it may hold a secret.
fn spec(args: &Args) -> Result<StoreSpec> {
    let credentials = args.credentials.as_deref().map(str::parse::<CredentialsRef>).transpose()?;
    let spec = StoreSpec { url: args.store.clone(), settings: settings(&args.settings)?, credentials };
    spec.check()?;
    Ok(spec)
}

/// The volume to read out; `None` if those that are there were listed instead.
async fn wanted(args: &Args, store: &dyn ObjectStore, cx: &Context) -> Result<Option<VolumeId>> {
    let there = rescue::volumes_in(store).await?;
    let Some(text) = &args.volume else {
        cx.ui.show(&there, || there.iter().map(|id| format!("{id}\n")).collect())?;
        return Ok(None);
    };
    let list = || match there.len() {
        0 => "the store holds no volume; see whether URL and settings are those of orlop store inspect".to_owned(),
        _ => format!("the store holds: {}", there.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    let id: VolumeId = text.parse().map_err(|_| {
        Error::invalid(format!("{text:?} is not a volume's id; without a registry names are not known")).with_remedy(list())
    })?;
    if !there.contains(&id) {
        return Err(Error::not_found(format!("the store holds no volume {id}")).with_remedy(list()));
    }
    Ok(Some(id))
}

async fn exists(store: &dyn ObjectStore, path: &str) -> Result<bool> {
    match store.head(&path.into()).await {
        Ok(_) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(e) => Err(orlop_store::error(path, &e)),
    }
}

async fn unsealed(store: Arc<dyn ObjectStore>, prefix: &str, key: Option<&Path>) -> Result<Arc<dyn ObjectStore>> {
    let sealed = exists(&*store, &format!("{prefix}/keys.json")).await?;
    match (sealed, key) {
        (false, _) => Ok(store),
        (true, Some(key)) => sealed_store(store, prefix, &MasterKeys::from_file(key)?).await,
        (true, None) => {
            Err(Error::new(ErrorKind::Denied, "the volume is sealed").with_remedy("give the file of orlop key export with --key FILE"))
        }
    }
}

/// A folder for what nobody wants to keep.
struct Scratch(PathBuf);

impl Scratch {
    fn new(near: &Path) -> Result<Scratch> {
        let near = std::path::absolute(near).map_err(|e| Error::io(near.display(), &e))?;
        let dir = near.join(format!(".orlop-export-{}", std::process::id()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&dir)
            .map_err(|e| Error::io(format_args!("making {}", dir.display()), &e))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(r: &Report) -> String {
    let mut table = Table::bare();
    for d in &r.damaged {
        table.row(["damaged:".to_owned(), d.path.clone(), d.why.clone()]);
    }
    for note in &r.notes {
        table.row(["note:".to_owned(), note.clone(), String::new()]);
    }
    let mut out = table.text();
    out.push_str(&format!(
        "{}: {} files, {} folders, {} others, {} read out to {}",
        r.volume,
        r.files,
        r.folders,
        r.others,
        ByteSize(r.bytes),
        r.to
    ));
    out.push_str(&if r.damaged.is_empty() { "\n".to_owned() } else { format!("; {} could not be read whole\n", r.damaged.len()) });
    out
}
