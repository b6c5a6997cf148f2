//! How a frame enters the tables.

use super::sqlite::{signed, unsigned};
use super::{
    Begun, Epoch, Ingested, Kind, LeftOut, MAX_EPOCHS, StoreError, StoredFrame, Why, boards,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

/// Where a device stands.
struct Standing {
    /// Its current epoch by its place among the device's, from 1; 0 before the first.
    place: i64,
    through: i64,
}

fn standing(tx: &Transaction<'_>, device: &str) -> Result<Standing, StoreError> {
    let found = tx
        .prepare("SELECT place, through FROM devices WHERE name = ?1")?
        .query_row([device], |row| {
            Ok(Standing {
                place: row.get(0)?,
                through: row.get(1)?,
            })
        })
        .optional()?;
    found.ok_or_else(|| StoreError::NoDevice(device.to_owned()))
}

/// Stores one frame; see [`Store::ingest`](super::Store::ingest).
pub(super) fn one(
    tx: &Transaction<'_>,
    frame: &StoredFrame,
    counts: &mut Ingested,
) -> Result<(), StoreError> {
    let now = standing(tx, &frame.device)?;
    let place: Option<i64> = tx
        .prepare("SELECT place FROM epochs WHERE device = ?1 AND epoch = ?2")?
        .query_row(params![frame.device, frame.epoch], |row| row.get(0))
        .optional()?;
    let fits = match place {
        Some(place) if place == now.place => Ok(()),
        Some(place) if same(tx, frame, place)? == Some(true) => {
            counts.known += 1;
            return Ok(());
        }
        Some(_) => Err(Why::Closed),
        None => may_begin(tx, frame, now.place)?,
    };
    if let Err(why) = fits {
        counts.left_out.push(left_out(frame, why));
        return Ok(());
    }
    let now = match place {
        Some(_) => now,
        None => {
            counts.begun.push(begin(tx, frame, now.place)?);
            standing(tx, &frame.device)?
        }
    };
    in_current(tx, frame, &now, counts)
}

fn left_out(frame: &StoredFrame, why: Why) -> LeftOut {
    LeftOut {
        device: frame.device.clone(),
        epoch: frame.epoch,
        sequence: frame.sequence,
        why,
    }
}

/// Whether exactly this report is stored; none when nothing has its numbers. What a device knew to be
/// acknowledged when it sent the frame may differ from one time to the next.
fn same(tx: &Transaction<'_>, frame: &StoredFrame, place: i64) -> Result<Option<bool>, StoreError> {
    let found = tx
        .prepare(
            "SELECT boot = ?5 AND time_ms = ?6 AND kind = ?7 AND body = ?8 FROM frames
             WHERE device = ?1 AND place = ?2 AND first_sequence = ?3 AND sequence = ?4",
        )?
        .query_row(
            params![
                frame.device,
                place,
                signed(frame.first_sequence),
                signed(frame.sequence),
                frame.boot,
                signed(frame.time_ms),
                frame.kind.name(),
                frame.body.to_string()
            ],
            |row| row.get(0),
        )
        .optional()?;
    Ok(found)
}

/// Clocks that show an earlier time do not know the year: 2000, in milliseconds since 1970.
const YEAR_KNOWN_MS: i64 = 946_684_800_000;

/// Whether a frame of an epoch that was never seen begins it.
fn may_begin(
    tx: &Transaction<'_>,
    frame: &StoredFrame,
    current: i64,
) -> Result<Result<(), Why>, StoreError> {
    if frame.first_sequence > frame.acknowledged.saturating_add(1) {
        return Ok(Err(Why::Unbegun));
    }
    // No frame was made after it was received: a clock that says so was ahead, and would keep out
    // every epoch that begins before that time comes.
    let begun_ms: Option<i64> = tx
        .prepare("SELECT min(time_ms, begun_ms) FROM epochs WHERE device = ?1 AND place = ?2")?
        .query_row(params![frame.device, current], |row| row.get(0))
        .optional()?;
    let time_ms = signed(frame.time_ms);
    if begun_ms.is_some_and(|begun_ms| time_ms >= YEAR_KNOWN_MS && time_ms < begun_ms) {
        return Ok(Err(Why::Older));
    }
    if current >= i64::from(MAX_EPOCHS) {
        return Ok(Err(Why::TooMany));
    }
    Ok(Ok(()))
}

/// Closes the current epoch and begins the frame's.
fn begin(tx: &Transaction<'_>, frame: &StoredFrame, current: i64) -> Result<Begun, StoreError> {
    tx.prepare("INSERT INTO epochs VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            frame.device,
            current + 1,
            frame.epoch,
            signed(frame.time_ms),
            signed(frame.received_ms),
            signed(frame.acknowledged)
        ])?;
    tx.prepare("UPDATE devices SET place = ?2, through = ?3 WHERE name = ?1")?
        .execute(params![
            frame.device,
            current + 1,
            signed(frame.acknowledged)
        ])?;
    let before = epochs(tx, &frame.device, Some(current))?;
    Ok(Begun {
        device: frame.device.clone(),
        epoch: frame.epoch,
        before: before.into_iter().next(),
    })
}

/// Stores a frame of the device's current epoch.
fn in_current(
    tx: &Transaction<'_>,
    frame: &StoredFrame,
    now: &Standing,
    counts: &mut Ingested,
) -> Result<(), StoreError> {
    let (first, last) = (signed(frame.first_sequence), signed(frame.sequence));
    let acknowledged = signed(frame.acknowledged);
    if acknowledged > now.through {
        // The device has forgotten them, so waiting for them would be for ever.
        tx.prepare("UPDATE devices SET through = ?2 WHERE name = ?1")?
            .execute(params![frame.device, acknowledged])?;
    }
    let through = now.through.max(acknowledged);
    let covered = last <= through
        || tx
            .prepare(
                "SELECT EXISTS (SELECT 1 FROM frames WHERE device = ?1 AND place = ?2
                 AND first_sequence <= ?3 AND sequence >= ?4)",
            )?
            .query_row(params![frame.device, now.place, first, last], |row| {
                row.get(0)
            })?;
    if covered {
        if same(tx, frame, now.place)? == Some(false) {
            counts.left_out.push(left_out(frame, Why::Conflict));
        } else {
            counts.known += 1;
        }
        return Ok(());
    }
    // A summary of no window only says that frames were lost: what came before it is better.
    let only_counts = frame.body["windows"] == 0;
    if frame.kind == Kind::Summary && first < last && !only_counts {
        // Events stay: the merged summary only counts them.
        let replaced = tx
            .prepare(
                "DELETE FROM frames WHERE device = ?1 AND place = ?2
                 AND sequence BETWEEN ?3 AND ?4 AND first_sequence >= ?3 AND kind = 'summary'",
            )?
            .execute(params![frame.device, now.place, first, last])?;
        counts.replaced += u32::try_from(replaced).unwrap_or(u32::MAX);
    }
    insert(tx, frame, now.place)?;
    counts.new += 1;
    let stored = (frame.device.clone(), frame.epoch, frame.sequence);
    counts.stored.push(stored);
    Ok(())
}

fn insert(tx: &Transaction<'_>, frame: &StoredFrame, place: i64) -> Result<(), StoreError> {
    tx.prepare(
        "INSERT INTO frames (device, place, sequence, first_sequence, boot, time_ms, received_ms,
         kind, body, raw) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        frame.device,
        place,
        signed(frame.sequence),
        signed(frame.first_sequence),
        frame.boot,
        signed(frame.time_ms),
        signed(frame.received_ms),
        frame.kind.name(),
        frame.body.to_string(),
        frame.raw
    ])?;
    boards::count_alarm(tx, frame)
}

/// Moves a device's mark up to the first gap.
pub(super) fn advance(tx: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
    let start = standing(tx, name)?;
    let mut through = start.through;
    // A merged frame may hold events that came before it, so ranges may lie in one another.
    let mut rows = tx.prepare(
        "SELECT first_sequence, sequence FROM frames
         WHERE device = ?1 AND place = ?2 AND sequence > ?3 ORDER BY first_sequence",
    )?;
    let mut rows = rows.query(params![name, start.place, start.through])?;
    while let Some(row) = rows.next()? {
        let (first, last): (i64, i64) = (row.get(0)?, row.get(1)?);
        if first > through.saturating_add(1) {
            break;
        }
        through = through.max(last);
    }
    drop(rows);
    if through > start.through {
        tx.execute(
            "UPDATE devices SET through = ?2 WHERE name = ?1",
            params![name, through],
        )?;
    }
    Ok(())
}

/// Numbers of one epoch that no frame answers for, from `after` to the highest that is stored.
pub(super) fn gaps(
    connection: &Connection,
    device: &str,
    place: i64,
    after: u64,
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT first_sequence, sequence FROM frames WHERE device = ?1 AND place = ?2
         AND sequence > ?3 ORDER BY first_sequence",
    )?;
    let mut rows = statement.query(params![device, place, signed(after)])?;
    let (mut gaps, mut next) = (Vec::new(), after + 1);
    while let Some(row) = rows.next()? {
        let (first, last) = (unsigned(row, 0)?, unsigned(row, 1)?);
        if first > next {
            gaps.push((next, first - 1));
        }
        next = next.max(last + 1);
    }
    Ok(gaps)
}

/// The epochs of a device, the oldest first; or only the one at a place.
pub(super) fn epochs(
    connection: &Connection,
    device: &str,
    only: Option<i64>,
) -> Result<Vec<Epoch>, StoreError> {
    let mut statement = connection.prepare(
        "SELECT e.epoch, e.begun_ms, e.elsewhere, e.place, d.place, d.through,
         (SELECT coalesce(max(f.sequence), 0) FROM frames f
          WHERE f.device = e.device AND f.place = e.place)
         FROM epochs e JOIN devices d ON d.name = e.device WHERE e.device = ?1
         AND (?2 IS NULL OR e.place = ?2) ORDER BY e.place",
    )?;
    let mut rows = statement.query(params![device, only])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |column| unsigned(row, column);
        let (place, current): (i64, i64) = (row.get(3)?, row.get(4)?);
        let (elsewhere, through) = (number(2)?, number(5)?);
        let closed = place != current;
        let until = if closed { u64::MAX } else { through };
        let missing = gaps(connection, device, place, elsewhere)?;
        let lost = missing
            .iter()
            .map(|&(first, last)| (last.min(until) + 1).saturating_sub(first))
            .sum();
        all.push(Epoch {
            epoch: row.get(0)?,
            begun_ms: number(1)?,
            elsewhere,
            last: number(6)?,
            lost,
            closed,
        });
    }
    Ok(all)
}
