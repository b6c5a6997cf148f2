//! `edgeward keys`.

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::Table;
use edgeward::trust::root::Root;
use edgeward::trust::{KeyId, PublicKey, Role};
use edgeward_host::keys::{KeyError, KeyInfo, KeyStore, Quorum, hex, pem, role_name, unhex};
use serde::Serialize;
use std::path::PathBuf;
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
    #[command(after_help = "Example:\n  edgeward keys list -o json")]
    List,
    /// Replace the keys of a role by new ones; boards follow the new root.
    #[command(
        after_help = "Example:\n  edgeward keys rotate release\n\nA running `edgeward serve` brings the new root to the boards by itself; without it, the next\n`edgeward rollout` command does."
    )]
    Rotate(RotateArgs),
    /// Strike one key off; what it signs is refused from then on.
    #[command(
        after_help = "Example:\n  edgeward keys revoke 5c1d0a9f3b2e4d6c --replace\n\nA running `edgeward serve` brings the new root to the boards by itself; without it, the next\n`edgeward rollout` command does."
    )]
    Revoke(RevokeArgs),
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
    /// Only say what would be made.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct RotateArgs {
    /// The role.
    #[arg(value_enum)]
    role: RoleArg,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The key's id, as `keys list` prints it.
    key: String,
    /// Make a new key in its place.
    #[arg(long)]
    replace: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
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
        Command::Rotate(args) => rotate(&args, &store, context),
        Command::Revoke(args) => revoke(&args, &store, context),
        Command::Export(args) => export(&args, &store, context),
    }
}

/// Adds what to do next to an error of the key store.
pub fn explain(error: KeyError) -> anyhow::Error {
    let next = match &error {
        KeyError::NoRoot(_) => "make keys with `edgeward keys init`, or point --home to them",
        KeyError::Exists(_) => "`edgeward keys list` shows them; --home makes others elsewhere",
        KeyError::TooFew { .. } => {
            "bring the private keys (*.p8) back into that folder for this step"
        }
        KeyError::NoSuchKey(_) => "`edgeward keys list` shows the keys",
        KeyError::Needed { .. } => "add --replace, which makes a new key in its place",
        KeyError::Root { .. } => "restore the folder from a copy: this root was changed",
        _ => return error.into(),
    };
    let next = Failure::new(Exit::Error, describe(&error)).next(next);
    anyhow::Error::new(next)
}

/// An error with its causes in one line.
fn describe(error: &KeyError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn init(args: &InitArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let quorum = |role| match role {
        Role::Root => args.root.0,
        Role::Release => args.release.0,
        Role::Rollout => args.rollout.0,
        Role::Collector => args.collector.0,
    };
    if args.dry_run {
        if store.root_bytes().is_ok() {
            return Err(explain(KeyError::Exists(store.folder().to_owned())));
        }
        for role in Role::ALL {
            let Quorum { threshold, keys } = quorum(role);
            let name = role_name(role);
            context.out.say(format!(
                "would make {keys} {name} keys, of which {threshold} must sign"
            ));
        }
        return Ok(Exit::Ok);
    }
    let root = store.init(quorum).map_err(explain)?;
    context.out.say(format!(
        "made keys and root version {} in {}",
        root.version,
        store.folder().display()
    ));
    context
        .out
        .say("keep a copy of that folder, and the root keys offline: nothing replaces them");
    list(store, context)
}

fn list(store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let root = store.root().map_err(explain)?;
    let keys = store.list().map_err(explain)?;
    let report = Keys {
        folder: store.folder().display().to_string(),
        root_version: root.version,
        thresholds: thresholds(&root),
        keys: keys.iter().map(key_row).collect(),
    };
    context.out.emit(&report, |report, w| {
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
    })?;
    Ok(Exit::Ok)
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
        status: if key.named { "active" } else { "revoked" },
    }
}

fn rotate(args: &RotateArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let role = Role::from(args.role);
    let root = store.root().map_err(explain)?;
    store.signers(Role::Root).map_err(explain)?;
    let count = root.role(role).keys.len();
    let name = role_name(role);
    if args.dry_run {
        context.out.say(format!(
            "would replace {count} {name} keys in root version {}",
            root.version + 1
        ));
        return Ok(Exit::Ok);
    }
    let next = store.rotate(role).map_err(explain)?;
    context.out.say(format!(
        "replaced {count} {name} keys in root version {}",
        next.version
    ));
    list(store, context)
}

fn revoke(args: &RevokeArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let id = unhex(&args.key).map(KeyId).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("`{}` is no key id", args.key))
            .next("`edgeward keys list` shows ids of 16 hexadecimal digits")
    })?;
    if args.dry_run {
        let root = store.root().map_err(explain)?;
        let role = Role::ALL
            .into_iter()
            .find(|&role| root.key(role, id).is_some());
        let role = role.ok_or_else(|| explain(KeyError::NoSuchKey(args.key.clone())))?;
        let name = role_name(role);
        context.out.say(format!(
            "would revoke this {name} key in root version {}",
            root.version + 1
        ));
        return Ok(Exit::Ok);
    }
    let (role, next) = store.revoke(id, args.replace).map_err(explain)?;
    context.out.say(format!(
        "revoked this {} key in root version {}",
        role_name(role),
        next.version
    ));
    list(store, context)
}

fn export(args: &ExportArgs, store: &KeyStore, context: &Context) -> anyhow::Result<Exit> {
    let root = store.root().map_err(explain)?;
    if let Some(path) = &args.root {
        let bytes = store.root_bytes().map_err(explain)?;
        std::fs::write(path, &bytes)
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
        context.out.say(format!(
            "wrote root version {} to {}",
            root.version,
            path.display()
        ));
        return Ok(Exit::Ok);
    }
    let wanted = args.role.map(Role::from);
    let keys: Vec<(Role, PublicKey)> = Role::ALL
        .into_iter()
        .filter(|&role| wanted.is_none_or(|wanted| wanted == role))
        .flat_map(|role| root.role(role).keys.iter().map(move |&key| (role, key)))
        .collect();
    if args.pem {
        let text: String = keys.iter().map(|(_, key)| pem(key)).collect();
        context.out.raw(text.as_bytes())?;
        return Ok(Exit::Ok);
    }
    #[derive(Serialize)]
    struct Exported {
        role: &'static str,
        key: String,
        public: String,
    }
    let rows: Vec<_> = keys
        .iter()
        .map(|(role, key)| Exported {
            role: role_name(*role),
            key: hex(&key.id().0),
            public: hex(&key.0),
        })
        .collect();
    context.out.emit(&rows, |rows, w| {
        let mut table = Table::new(["role", "key", "public"]);
        for row in rows {
            table.row([row.role.into(), row.key.clone(), row.public.clone()]);
        }
        table.write(w)
    })?;
    Ok(Exit::Ok)
}
