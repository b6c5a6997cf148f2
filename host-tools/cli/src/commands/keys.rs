//! `edgeward keys`.

mod partial;

use super::change::{Changes, DryRun};
use super::release;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward::trust::root::Root;
use edgeward::trust::{KeyId, PublicKey, Role};
use edgeward_host::keys::{KeyInfo, KeyStore, Quorum, Replacement, hex, pem, role_name, unhex};
use partial::{countersign, propose};
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Arguments of `keys`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the keys of all roles and the first root.
    #[command(
        after_help = "Example:\n  edgeward keys init\n  edgeward keys init --root 2/3 --release 1/2\n\nMove the root keys to a safe place afterwards: only rotation and revocation need them."
    )]
    Init(InitArgs),
    /// List the keys, and which private halves are at hand.
    #[command(
        after_help = "Example:\n  edgeward keys list -o json\n\nThe status is `active` for what the root names, `revoked` for what an earlier root named, and `pending`\nfor a key that no root has named yet: it may be the only copy of what the next one names, so keep it.\n\nChanges nothing."
    )]
    List,
    /// Make one key that no root names yet, and print its public half for whoever begins the next root.
    #[command(
        after_help = "Example:\n  edgeward keys make root                # Bob, in a folder of his own\n  edgeward keys rotate root --partial root-2.part --public 19bf44...   # Alice, with what Bob read out\n\nThe private half is in that folder only."
    )]
    Make(MakeArgs),
    /// Replace the keys of a role by new ones; boards follow the new root.
    #[command(
        after_help = "Example:\n  edgeward keys rotate release --dry-run\n  edgeward keys rotate release\n\nWhat only the old keys signed is refused once the new root is out. Of release keys that is every\nbundle so far: boards go on predicting and show what they run as `revoked` until another release\nruns, and `verify`, `publish` and `rollback` refuse a bundle until `edgeward sign` signed it again.\ndocs/OPERATING.md has the procedure.\n\nA running `edgeward serve` brings the new root to the boards by itself; without it, the next\n`edgeward rollout` command does."
    )]
    Rotate(RotateArgs),
    /// Strike one key off; what it signs is refused from then on.
    #[command(
        after_help = "Example:\n  edgeward keys revoke 5c1d0a9f3b2e4d6c --replace\n\nA running `edgeward serve` brings the new root to the boards by itself; without it, the next\n`edgeward rollout` command does."
    )]
    Revoke(RevokeArgs),
    /// Sign a root that somebody else began with `--partial`, and put it in force once enough have.
    #[command(
        after_help = "Example:\n  edgeward keys rotate release --partial root-2.part      # Alice, who has one of two root keys\n  edgeward keys countersign root-2.part --dry-run         # Bob reads what would change\n  edgeward keys countersign root-2.part                   # Bob signs: it is in force for him\n  edgeward keys countersign root-2.part                   # Alice, with Bob's file: and for her\n\nWhoever signs answers for what changes: compare the keys with those who made them.\nExit code 3 when a signature does not hold, or it is not the root that follows."
    )]
    Countersign(CountersignArgs),
    /// Print public keys, or write the signed root for boards to a file.
    #[command(
        after_help = "Example:\n  edgeward keys export --role release --pem\n  edgeward keys export --root root.cose"
    )]
    Export(ExportArgs),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Root keys, as how many must sign of how many.
    #[arg(long, value_name = "M/N", default_value = "1/1")]
    root: QuorumArg,
    /// Release keys.
    #[arg(long, value_name = "M/N", default_value = "1/1")]
    release: QuorumArg,
    /// Rollout keys.
    #[arg(long, value_name = "M/N", default_value = "1/1")]
    rollout: QuorumArg,
    /// Collector keys.
    #[arg(long, value_name = "M/N", default_value = "1/1")]
    collector: QuorumArg,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
struct MakeArgs {
    /// The role.
    #[arg(value_enum)]
    role: RoleArg,
    #[command(flatten)]
    dry_run: DryRun,
}

/// A public key that was made elsewhere.
fn public(text: &str) -> Result<PublicKey, String> {
    let key = unhex(text).map(PublicKey);
    key.ok_or_else(|| "no public key: 64 hexadecimal digits".to_owned())
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    /// The role.
    #[arg(value_enum)]
    role: RoleArg,
    /// Name this key, which somebody else made (`keys make`), instead of making one here: 64 hexadecimal
    /// digits; may be given again.
    #[arg(long, value_name = "HEX", value_parser = public, requires = "partial")]
    public: Vec<PublicKey>,
    /// Begin with the root keys at hand, into this file: others add theirs with `keys countersign`.
    #[arg(long, value_name = "FILE")]
    partial: Option<PathBuf>,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The key's id, as `keys list` prints it.
    key: String,
    /// Make a new key in its place.
    #[arg(long)]
    replace: bool,
    /// Name this key in its place, which somebody else made (`keys make`): 64 hexadecimal digits.
    #[arg(long, value_name = "HEX", value_parser = public, requires_all = ["partial", "replace"])]
    public: Option<PublicKey>,
    /// Begin with the root keys at hand, into this file: others add theirs with `keys countersign`.
    #[arg(long, value_name = "FILE")]
    partial: Option<PathBuf>,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
struct CountersignArgs {
    /// The root on its way; it is written again with what was added.
    file: PathBuf,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, clap::Args)]
struct ExportArgs {
    /// Only keys of this role.
    #[arg(long, value_enum)]
    role: Option<RoleArg>,
    /// As PEM, for OpenSSL and others.
    #[arg(long, conflicts_with = "root")]
    pem: bool,
    /// Write the signed root to this file instead.
    #[arg(long, value_name = "FILE", conflicts_with = "role")]
    root: Option<PathBuf>,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RoleArg {
    Root,
    Release,
    Rollout,
    Collector,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Root => Self::Root,
            RoleArg::Release => Self::Release,
            RoleArg::Rollout => Self::Rollout,
            RoleArg::Collector => Self::Collector,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct QuorumArg(Quorum);

impl FromStr for QuorumArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pair = text.split_once('/').and_then(|(threshold, keys)| {
            Some(Quorum {
                threshold: threshold.parse().ok()?,
                keys: keys.parse().ok()?,
            })
        });
        pair.map(Self)
            .ok_or_else(|| "as 2/3: two of three keys must sign".to_owned())
    }
}

#[derive(Debug, Serialize)]
struct KeyRow {
    role: &'static str,
    key: String,
    public: String,
    held: bool,
    status: &'static str,
}

#[derive(Debug, Serialize)]
struct Keys {
    folder: String,
    root_version: u32,
    thresholds: Vec<Threshold>,
    keys: Vec<KeyRow>,
}

#[derive(Debug, Serialize)]
struct Threshold {
    role: &'static str,
    threshold: u8,
    keys: usize,
}

/// Runs the command.
pub fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let store = KeyStore::at(&context.home);
    match args.command {
        Command::Init(args) => init(&args, &store, context),
        Command::List => list(&store, context),
        Command::Make(args) => make(&args, &store, context),
        Command::Rotate(args) => rotate(&args, &store, context),
        Command::Revoke(args) => revoke(&args, &store, context),
        Command::Countersign(args) => countersign(&args, &store, context),
        Command::Export(args) => export(&args, &store, context),
    }
}

fn init(args: &InitArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let quorum = |role| match role {
        Role::Root => args.root.0,
        Role::Release => args.release.0,
        Role::Rollout => args.rollout.0,
        Role::Collector => args.collector.0,
    };
    store.check_init(quorum)?;
    let mut changes = args.dry_run.changes();
    let folder = store.folder().display().to_string();
    let made: Vec<String> = Role::ALL
        .into_iter()
        .map(|role| {
            let Quorum { threshold, keys } = quorum(role);
            format!(
                "{keys} {} (of which {threshold} must sign)",
                role_name(role)
            )
        })
        .collect();
    let what = format!(
        "make keys and root version 1 in {folder}: {}",
        made.join(", ")
    );
    let made = changes.make(what, || Ok(store.init(quorum)?))?;
    if let Some(root) = &made {
        context.out.say(format!(
            "made keys and root version {} in {folder}\n\
             keep a copy of that folder, and the root keys offline: nothing replaces them",
            root.version
        ));
        return show(store, &changes, context);
    }
    // What there will be, as far as it is known before the keys are drawn.
    let thresholds = Role::ALL.into_iter().map(|role| Threshold {
        role: role_name(role),
        threshold: quorum(role).threshold,
        keys: usize::from(quorum(role).keys),
    });
    let report = Keys {
        folder,
        root_version: 1,
        thresholds: thresholds.collect(),
        keys: Vec::new(),
    };
    changes.emit(context, &report, |_, _| Ok(()))?;
    Ok(Exit::Ok)
}

/// Lists the keys, after what was changed about them.
fn show(store: &KeyStore, changes: &Changes, context: &Context) -> anyhow::Result<Exit> {
    changes.emit(context, &report(store)?, print)?;
    Ok(Exit::Ok)
}

fn list(store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    context.out.emit(&report(store)?, print)?;
    Ok(Exit::Ok)
}

fn report(store: &KeyStore) -> anyhow::Result<Keys> {
    let root = store.root()?;
    let keys = store.list()?;
    Ok(Keys {
        folder: store.folder().display().to_string(),
        root_version: root.version,
        thresholds: thresholds(&root),
        keys: keys.iter().map(key_row).collect(),
    })
}

fn print(report: &Keys, w: &mut dyn Write) -> io::Result<()> {
    writeln!(
        w,
        "root version {} in {}",
        report.root_version, report.folder
    )?;
    for role in report.thresholds.iter().filter(|role| role.keys > 1) {
        writeln!(
            w,
            "{} of {} {} keys must sign",
            role.threshold, role.keys, role.role
        )?;
    }
    let mut table = Table::new(["role", "key", "private half", "status"]);
    for key in &report.keys {
        let held = if key.held { "here" } else { "elsewhere" };
        table.row([
            key.role.into(),
            key.key.clone(),
            held.into(),
            key.status.into(),
        ]);
    }
    table.write(w)
}

fn thresholds(root: &Root) -> Vec<Threshold> {
    let threshold = |role| Threshold {
        role: role_name(role),
        threshold: root.role(role).threshold,
        keys: root.role(role).keys.len(),
    };
    Role::ALL.into_iter().map(threshold).collect()
}

fn key_row(key: &KeyInfo) -> KeyRow {
    KeyRow {
        role: role_name(key.role),
        key: hex(&key.public.id().0),
        public: hex(&key.public.0),
        held: key.held,
        status: key.status.name(),
    }
}

fn make(args: &MakeArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let role = Role::from(args.role);
    let mut changes = args.dry_run.changes();
    let folder = store.folder().display().to_string();
    let what = format!("make a {} key in {folder}", role_name(role));
    let made = changes.make(what, || Ok(store.make(role)?))?;
    let value = serde_json::json!({
        "folder": folder, "role": role_name(role),
        "key": made.map(|key| hex(&key.id().0)), "public": made.map(|key| hex(&key.0)),
    });
    changes.emit(context, &value, |_, w| match made {
        Some(key) => writeln!(w, "{}", hex(&key.0)),
        None => Ok(()),
    })?;
    Ok(Exit::Ok)
}

fn rotate(args: &RotateArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let role = Role::from(args.role);
    let root = store.root()?;
    let keys = format!("{} {} keys", root.role(role).keys.len(), role_name(role));
    let ids = root.role(role).keys.iter().map(|key| hex(&key.id().0));
    let ids: Vec<String> = ids.collect();
    let next = root.version.saturating_add(1);
    let mut changes = args.dry_run.changes();
    let what = format!(
        "replace {keys} in root version {next} ({}): what only they signed is refused from then on",
        ids.join(", ")
    );
    store.check_public(&args.public, root.role(role).keys.len())?;
    if let Some(file) = &args.partial {
        let begin = || Ok(store.propose_rotation(role, &args.public)?);
        return propose(store, changes, context, (file, what), (role, begin));
    }
    store.signers(Role::Root)?;
    if let Some(root) = changes.make(what, || Ok(store.rotate(role)?))? {
        let said = format!("replaced {keys} in root version {}", root.version);
        context.out.say(said);
        if role == Role::Release {
            context.out.say(
                "bundles that only the old keys signed are refused until `edgeward sign` signs them again",
            );
        }
    }
    show(store, &changes, context)
}

fn revoke(args: &RevokeArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let id = unhex(&args.key).map(KeyId).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{}` is no key id", args.key))
            .next("`edgeward keys list` shows ids of 16 hexadecimal digits")
    })?;
    let (role, root) = store.check_revoke(id, args.replace)?;
    let key = format!("this {} key", role_name(role));
    let next = root.version.saturating_add(1);
    let mut changes = args.dry_run.changes();
    let what = match args.replace {
        true => format!("revoke {key} and make another in root version {next}"),
        false => format!("revoke {key} in root version {next}"),
    };
    store.check_public(args.public.as_slice(), 1)?;
    if let Some(file) = &args.partial {
        let new = args.replace.then_some(Replacement::New);
        let by = args.public.map(Replacement::Given).or(new);
        let begin = || Ok(store.propose_revocation(id, by)?);
        return propose(store, changes, context, (file, what), (role, begin));
    }
    store.signers(Role::Root)?;
    let revoke = || Ok(store.revoke(id, args.replace)?);
    if let Some((_, root)) = changes.make(what, revoke)? {
        let said = format!("revoked {key} in root version {}", root.version);
        context.out.say(said);
    }
    show(store, &changes, context)
}

fn export(args: &ExportArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let root = store.root()?;
    let mut changes = args.dry_run.changes();
    if let Some(path) = &args.root {
        return export_root(path, &root, store, &mut changes, context);
    }
    let wanted = args.role.map(Role::from);
    let keys = Role::ALL
        .into_iter()
        .filter(|&role| wanted.is_none_or(|wanted| wanted == role))
        .flat_map(|role| root.role(role).keys.iter().map(move |&key| (role, key)));
    #[derive(Serialize)]
    struct Exported {
        role: &'static str,
        key: String,
        public: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        pem: Option<String>,
    }
    let rows: Vec<_> = keys
        .map(|(role, key)| Exported {
            role: role_name(role),
            key: hex(&key.id().0),
            public: hex(&key.0),
            pem: args.pem.then(|| pem(&key)),
        })
        .collect();
    context.out.emit(&rows, |rows, w| {
        let mut table = Table::new(["role", "key", "public"]);
        for row in rows {
            match &row.pem {
                Some(pem) => w.write_all(pem.as_bytes())?,
                None => table.row([row.role.into(), row.key.clone(), row.public.clone()]),
            }
        }
        if args.pem { Ok(()) } else { table.write(w) }
    })?;
    Ok(Exit::Ok)
}

fn export_root(
    path: &Path,
    root: &Root,
    store: &KeyStore,
    changes: &mut Changes,
    context: &Context,
) -> anyhow::Result<Exit> {
    let bytes = store.root_bytes()?;
    let value = serde_json::json!({
        "root_version": root.version, "file": path.display().to_string(), "bytes": bytes.len(),
    });
    let written = release::write(changes, path, &bytes)?;
    changes.emit(context, &value, |_, _| Ok(()))?;
    if written {
        context.out.say(format!(
            "wrote root version {} to {}",
            root.version,
            path.display()
        ));
    }
    Ok(Exit::Ok)
}
