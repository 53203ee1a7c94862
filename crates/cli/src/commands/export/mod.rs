//! `orlop export`

mod folder;
mod read;
mod strays;
mod tar;
mod which;

use crate::args::Context;
use crate::commands::store::settings;
use crate::failure::FOUND;
use crate::found::{self, Keys};
use crate::progress::Progress;
use crate::ui::Table;
use orlop_chunkfs::rescue::{self, Opened, Rescue};
use orlop_model::{ByteSize, CredentialsRef, Error, Result, StoreSpec, VolumeId};
use orlop_store::keys::MasterKeys;
use read::{Sink, Walk};
use serde::Serialize;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Reads a volume out of its store into a folder or a tar file, with no daemon and no registry. Writes nothing to the
/// store and keeps no writer out; exit code 1 when something could not be read. A damaged log is read up to its damage.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The volume's name as it was made, or its id; without it the volumes in the store are listed.
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
    /// Counts the folder of --state even if nothing says that its host had the volume last: if the owner record in the store, or the file
    /// `holder` in the folder, is missing or damaged. Wrong if another host had the volume since.
    #[arg(long, requires = "state")]
    trust_state: bool,
    /// A folder that is empty or does not exist yet, or a file whose name ends with .tar. A folder named as the volume if absent.
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
    /// The damage to a log behind which nothing was read: newer changes are missing. Or to what says who has them: they may be. Or to the
    /// namespace: names and attributes are.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<String>,
    /// Whether it is the namespace.
    #[serde(skip)]
    rebuilt: bool,
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
    let keys = match &args.key {
        Some(file) => {
            Keys::These(MasterKeys::from_file(file).map_err(|e| e.with_remedy("give the file that orlop key export made, with mode 0600"))?)
        }
        None => Keys::Nowhere,
    };
    let Some(found) = which::wanted(args.volume.as_deref(), &store, &keys, cx).await? else { return Ok(0) };
    let volume = found.id;
    let to = args.to.clone().or_else(|| args.volume.as_ref().map(PathBuf::from)).unwrap_or_default();
    let to = to.as_path();
    let prefix = format!("volumes/{volume}");
    // Also where the owner record is lost: only such a volume has a log in its store.
    let remote = !spec.is_local()
        || found::exists(&*store, &format!("{prefix}/owner.json").into()).await?
        || found::any_below(&*store, &format!("{prefix}/log").into()).await?;
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
    let of = keys.view(store, &prefix, found.encrypted).await?;
    // Beside what comes out, where there is room for it.
    let near = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = Scratch::new(near)?;
    let rescue = Rescue { volume, of, prefix, remote, state_dir: state, trust_state: args.trust_state, scratch: scratch.dir.clone() };
    let Opened { fs, lost, rebuilt, elsewhere } = rescue::open(&rescue).await.map_err(|e| {
        if e.remedy.is_some() { e } else { e.with_remedy("orlop check names what is damaged, on a host that has the volume") }
    })?;
    let mut sink: Box<dyn Sink> = match args.to.is_some() && to.extension().is_some_and(|e| e == "tar") {
        true => Box::new(tar::TarFile::create(to, &scratch.dir)?),
        false => Box::new(folder::Folder::create(to)?),
    };
    let mut progress = Progress::new(&cx.ui);
    let total = fs.usage().used_bytes;
    let (volume, to, notes) = (volume.to_string(), to.display().to_string(), elsewhere.into_iter().collect());
    let report = Report { volume, to, lost, rebuilt, notes, ..Report::default() };
    let mut walk = Walk::new(&fs, &mut *sink, report, |path, done| progress.show(path, done, total));
    let walked = walk.all().await;
    let mut report = walk.report;
    progress.end();
    walked?;
    report.notes.extend(sink.finish()?);
    // Nothing of this opening is to be kept.
    fs.abandon().await;
    cx.ui.show(&report, || text(&report))?;
    Ok(if report.damaged.is_empty() && report.lost.is_none() { 0 } else { FOUND })
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

/// A folder for what nobody wants to keep, locked while it is used.
struct Scratch {
    dir: PathBuf,
    _lock: File,
}

const SCRATCH: &str = ".orlop-export-";

impl Scratch {
    fn new(near: &Path) -> Result<Scratch> {
        let near = std::path::absolute(near).map_err(|e| Error::io(near.display(), &e))?;
        Scratch::clear(&near);
        let dir = near.join(format!("{SCRATCH}{}", VolumeId::random()));
        let failed = |e: std::io::Error| Error::io(format_args!("making {}", dir.display()), &e);
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        let lock = File::create(dir.join("lock")).and_then(|lock| lock.lock().map(|()| lock)).map_err(failed)?;
        // Another export may have taken it for left behind, before it was locked.
        File::open(dir.join("lock")).map_err(failed)?;
        Ok(Scratch { dir, _lock: lock })
    }

    /// Removes what a killed export left.
    fn clear(near: &Path) {
        for entry in std::fs::read_dir(near).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH)
                && File::open(entry.path().join("lock")).is_ok_and(|lock| lock.try_lock().is_ok())
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn text(r: &Report) -> String {
    let mut table = Table::bare();
    for d in &r.damaged {
        table.row(["damaged:".to_owned(), d.path.clone(), d.why.clone()]);
    }
    match &r.lost {
        Some(why) if r.rebuilt => table.row(["damaged:".to_owned(), "names and attributes".to_owned(), why.clone()]),
        Some(why) => table.row(["damaged:".to_owned(), "the newest changes".to_owned(), format!("they may not all be there: {why}")]),
        None => {}
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
