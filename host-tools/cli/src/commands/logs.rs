//! `edgeward logs`: what a microcontroller board says, read by the table in its image.

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, colour};
use anyhow::{Context as _, Result};
use edgeward_logs::{Image, Item, Level, Line, Reader};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const HELP: &str = "\
Examples:
  edgeward logs press-03 --follow
  edgeward logs --image edgeward-qemu-mps2-an386 /dev/ttyACM0 --level warn -o json

SOURCE is the folder of a board that `edgeward flash` made, a file, a serial device, a Unix socket, or - for
stdin. Boards log numbers; their words stand in the image (ELF) that they run, so that has to be the same one.
What a board says as it starts and as it crashes is text, which is shown as it is. Changes nothing.";

/// Show what a microcontroller board logs.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// Where the log comes from.
    source: PathBuf,
    /// The image that the board runs [default: firmware.elf in the board's folder].
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Leave out what matters less.
    #[arg(long, value_name = "trace|debug|info|warn|error", default_value = "trace", value_parser = level_of)]
    level: Level,
    /// Wait for more at the end of a file.
    #[arg(short, long)]
    follow: bool,
    /// Bits a second of a serial device.
    #[arg(long, default_value_t = 115_200)]
    baud: u32,
}

/// Pause between two looks at a file that is followed.
const PERIOD: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const READ_BYTES: usize = 4096;
/// The log and the image in a board's folder.
pub const LOG: &str = "uart.log";
pub const IMAGE: &str = "firmware.elf";

fn level_of(text: &str) -> Result<Level, String> {
    let all = [
        Level::Trace,
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
    ];
    let found = all.into_iter().find(|level| level.name() == text);
    found.ok_or_else(|| "use trace, debug, info, warn or error".to_owned())
}

/// Runs it.
pub fn run(args: &Args, context: &Context) -> Result<Exit> {
    let folder = args.source.is_dir();
    let path = match &args.image {
        Some(path) => path.clone(),
        None if folder => args.source.join(IMAGE),
        None => {
            let what = "--image is needed to read the log of anything but a board's folder";
            return Err(Failure::new(Exit::Usage, what)
                .next("give the ELF file that the board runs: `cargo xtask board-image BOARD` names it")
                .into());
        }
    };
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let image = Image::parse(&bytes).map_err(|error| {
        let what = format!("{}: {error}", path.display());
        Failure::new(Exit::Error, what)
            .next("give the ELF file that the board runs, not what was made of it")
    })?;
    let source = match folder {
        true => args.source.join(LOG),
        false => args.source.clone(),
    };
    let mut shown = Shown {
        args,
        context,
        reader: Reader::new(&image),
        lines: 0,
        stray: 0,
        foreign: None,
    };
    let mut stream = open(&source, args)?;
    let mut buffer = [0; READ_BYTES];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) if stream.grows => std::thread::sleep(PERIOD),
            Ok(0) => break,
            Ok(len) => shown.take(&buffer[..len])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| source.display().to_string()),
        }
    }
    shown.end(&source, &path)
}

/// Where bytes come from.
struct Stream {
    from: Box<dyn Read>,
    /// There may be more behind the end.
    grows: bool,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.from.read(buffer)
    }
}

fn open(source: &Path, args: &Args) -> Result<Stream> {
    let named = || source.display().to_string();
    if source.as_os_str() == "-" {
        let from: Box<dyn Read> = Box::new(io::stdin().lock());
        return Ok(Stream { from, grows: false });
    }
    let kind = std::fs::metadata(source).with_context(named)?.file_type();
    if kind.is_socket() {
        let from: Box<dyn Read> = Box::new(UnixStream::connect(source).with_context(named)?);
        return Ok(Stream { from, grows: false });
    }
    if kind.is_char_device() {
        set_up(source, args.baud)?;
    }
    let grows = args.follow && kind.is_file();
    let from: Box<dyn Read> = Box::new(File::open(source).with_context(named)?);
    Ok(Stream { from, grows })
}

/// Has a serial device give bytes as they come.
fn set_up(device: &Path, baud: u32) -> Result<()> {
    let set = Command::new("stty")
        .arg("-F")
        .arg(device)
        .args([&baud.to_string(), "raw", "-echo"])
        .stdin(Stdio::null())
        .output()
        .context("stty")?;
    if !set.status.success() {
        let said = String::from_utf8_lossy(&set.stderr);
        let what = format!("{}: {}", device.display(), said.trim());
        return Err(Failure::new(Exit::Error, what)
            .next("give a serial device and a --baud that it knows")
            .into());
    }
    Ok(())
}

/// What was shown so far, and what could not be.
struct Shown<'a> {
    args: &'a Args,
    context: &'a Context,
    reader: Reader<'a>,
    lines: u64,
    stray: u64,
    /// The image that the board said it runs, where it was another one.
    foreign: Option<String>,
}

impl Shown<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for item in self.reader.feed(bytes) {
            match item {
                Item::Line(line) => {
                    self.lines += u64::from(line.level.is_some());
                    self.show(&line)?;
                }
                Item::Stray(_) => self.stray += 1,
                Item::Start { text, id, foreign } => {
                    if foreign {
                        // Programs read of it in the error at the end, if nothing else was there to read.
                        if self.context.out.format() == Format::Table {
                            let say =
                                format!("from here on it is the log of another image: {text}");
                            self.context.out.say(say);
                        }
                        self.foreign = Some(id);
                    } else {
                        let line = Line {
                            time_s: None,
                            level: None,
                            text,
                        };
                        self.show(&line)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn show(&self, line: &Line) -> Result<()> {
        if line.level.is_some_and(|level| level < self.args.level) {
            return Ok(());
        }
        self.context.out.emit_line(line, write_line)
    }

    /// Says what was wrong with the stream, if anything was.
    fn end(self, source: &Path, image: &Path) -> Result<Exit> {
        let (source, image) = (source.display(), image.display());
        if self.lines == 0 && (self.stray > 0 || self.foreign.is_some()) {
            let what = match self.foreign {
                Some(id) => format!("{source} comes of image {id}, and {image} is another one"),
                None => format!("nothing in {source} is a line of {image}"),
            };
            return Err(Failure::new(Exit::Error, what)
                .next("give the image that the board runs with --image; for a serial device also --baud")
                .into());
        }
        if self.stray > 0 {
            let say = format!("{} pieces of {source} are no lines of {image}", self.stray);
            self.context.out.say(say);
        }
        Ok(Exit::Ok)
    }
}

fn write_line(line: &Line, w: &mut dyn Write) -> io::Result<()> {
    let time = line
        .time_s
        .map_or(String::new(), |time| format!("{time:.3}"));
    let level = line.level.map_or("", Level::name);
    let bright = colour(&io::stdout());
    let (on, off) = match line.level {
        Some(Level::Error) if bright => ("\x1b[31m", "\x1b[0m"),
        Some(Level::Warn) if bright => ("\x1b[33m", "\x1b[0m"),
        _ => ("", ""),
    };
    let text = line.visible();
    writeln!(w, "{time:>10} {on}{level:<5}{off} {text}")
}
