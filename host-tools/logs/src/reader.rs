//! A stream, cut into frames and texts.

use crate::{Image, Level};
use serde::Serialize;

/// Bytes without an end after which they are no frame of anything.
const LONGEST: usize = 64 * 1024;

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Seconds since the board's start, where the line says.
    pub time_s: Option<f64>,
    /// How much it matters; none of what is always shown: a text, or a line without a level.
    pub level: Option<Level>,
    /// What it says.
    pub text: String,
}

impl Line {
    /// What it says, for a terminal: whatever would move its cursor, change its colours, look like the end of the
    /// line or turn its direction round is written out, as Rust escapes it. A board's texts may be of others' making.
    #[must_use]
    pub fn visible(&self) -> String {
        let mut shown = String::with_capacity(self.text.len());
        for letter in self.text.chars() {
            match letter.is_control() || is_invisible(letter) {
                true => shown.extend(letter.escape_default()),
                false => shown.push(letter),
            }
        }
        shown
    }
}

/// Whether a letter has no shape, but changes how those around it stand.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// What comes out of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A line.
    Line(Line),
    /// The board starts and says which image it runs: another than the one given, if `foreign`. What it says
    /// from here on is left out then.
    Start {
        /// What it says, for people.
        text: String,
        /// The image that it runs.
        id: String,
        /// It is not the one whose table is at hand.
        foreign: bool,
    },
    /// So many bytes that are neither frame nor text.
    Stray(usize),
}

/// All that a log says that is at hand as a whole, a line each: what is no frame of this image, such as one
/// that a crash cut, is told by how many bytes it has.
#[must_use]
pub fn words(image: &Image, log: &[u8]) -> String {
    let mut text = String::new();
    for item in Reader::new(image).feed(log) {
        match item {
            Item::Line(line) => text.push_str(&line.text),
            Item::Start { text: start, .. } => text.push_str(&start),
            Item::Stray(bytes) => text.push_str(&format!("({bytes} bytes)")),
        }
        text.push('\n');
    }
    text
}

/// Cuts a stream into frames and texts as it comes.
#[derive(Debug)]
pub struct Reader<'a> {
    image: &'a Image,
    held: Vec<u8>,
    /// Whether this may be the middle of a frame: nothing has ended yet.
    in_the_middle: bool,
    foreign: bool,
}

impl<'a> Reader<'a> {
    /// A reader of what `image` says, from anywhere in its stream on.
    #[must_use]
    pub fn new(image: &'a Image) -> Self {
        Self {
            image,
            held: Vec::new(),
            in_the_middle: true,
            foreign: false,
        }
    }

    /// Takes what came.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Item> {
        let mut items = Vec::new();
        for &byte in bytes {
            if byte != 0 {
                self.held.push(byte);
            }
            if byte == 0 || self.held.len() > LONGEST {
                let piece = std::mem::take(&mut self.held);
                items.extend(self.piece(&piece));
                self.in_the_middle = false;
            }
        }
        items
    }

    fn piece(&mut self, piece: &[u8]) -> Option<Item> {
        if piece.is_empty() {
            return None;
        }
        if let Some(text) = text(piece) {
            return Some(self.text(text));
        }
        if self.foreign {
            return None;
        }
        match self.image.read(piece) {
            Some(line) => Some(Item::Line(line)),
            // The end of what began before this reader did.
            None if self.in_the_middle => None,
            None => Some(Item::Stray(piece.len())),
        }
    }

    fn text(&mut self, text: &str) -> Item {
        let said = text.strip_prefix("edgeward ");
        let id = said.and_then(|said| said.rsplit_once(" image "));
        if let Some((_, id)) = id {
            self.foreign = self.image.id().is_some_and(|own| own != id);
            return Item::Start {
                text: text.to_owned(),
                id: id.to_owned(),
                foreign: self.foreign,
            };
        }
        Item::Line(Line {
            time_s: None,
            level: None,
            text: text.to_owned(),
        })
    }
}

/// A text: letters and the like, with the end of a line at its end. Frames are all but never so.
fn text(piece: &[u8]) -> Option<&str> {
    let line = piece.strip_suffix(b"\n")?;
    let letters = line.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = std::str::from_utf8(line).ok()?;
    (letters && !text.is_empty()).then_some(text)
}
