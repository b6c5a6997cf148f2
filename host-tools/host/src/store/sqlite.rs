//! The store in one SQLite file, in write-ahead mode with full syncs: what was acknowledged to a
//! board is on the disk.

use super::schema::SCHEMA;
use super::{
    AlarmTotal, AuditEntry, Decide, Device, Epoch, FrameQuery, Ingested, Kind, Member, Refusal,
    ReleaseRecord, Seen, Store, StoreError, StoredFrame, Unknown, boards, ingest, lock, rollouts,
};
use crate::keys::hex;
use crate::names::class_name;
use crate::rollout::Rollout;
use edgeward::bundle::BoardClass;
use edgeward::trust::{PublicKey, sha256};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The schema's version, in `user_version`.
const VERSION: i64 = 2;
/// "EDGW", in `application_id`, so that another program's file is not taken for ours.
const APPLICATION: i64 = 0x4544_4757;
/// Refusals kept in full.
const REFUSALS: i64 = 1000;
/// A store in a file.
pub struct Sqlite {
    connection: Mutex<Connection>,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt(error.to_string())
            }
            _ => Self::Other(error.to_string()),
        }
    }
}

impl Sqlite {
    /// Opens the store, and makes it at first use.
    ///
    /// # Errors
    /// [`StoreError`] when the file can't be opened, is damaged, or is not a store of this version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |why: String| StoreError::Open {
            path: path.to_owned(),
            why,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        }
        let connection = Connection::open(path).map_err(|error| failed(error.to_string()))?;
        Self::set_up(connection)
    }

    /// A store that ends with this process.
    ///
    /// # Errors
    /// [`StoreError`] when there is no memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::set_up(Connection::open_in_memory()?)
    }

    fn set_up(mut connection: Connection) -> Result<Self, StoreError> {
        connection.busy_handler(Some(lock::wait))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let store = Self {
            connection: Mutex::new(connection),
        };
        store.prepare()?;
        Ok(store)
    }

    /// A store that is only read. Tables that it is too old to have are empty. `None` where nothing is in
    /// the file yet: whoever was to make the tables met a full disk, or was killed.
    pub(super) fn to_read(mut connection: Connection) -> Result<Option<Self>, StoreError> {
        connection.busy_handler(Some(lock::wait))?;
        if tables(&connection)? == 0 {
            return Ok(None);
        }
        check(&connection)?;
        boards::stand_in(&connection)?;
        Ok(Some(Self {
            connection: Mutex::new(connection),
        }))
    }

    /// Does `work` in a transaction that keeps other writers out from its beginning.
    fn exclusively<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&tx)?;
        tx.commit()?;
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the tables, or checks that they are ours.
    fn prepare(&self) -> Result<(), StoreError> {
        // Two processes may open a new store at once; the lock lets one of them make the tables.
        self.exclusively(|tx| {
            if tables(tx)? == 0 {
                tx.execute_batch(SCHEMA)?;
                tx.pragma_update(None, "user_version", VERSION)?;
                tx.pragma_update(None, "application_id", APPLICATION)?;
            }
            check(tx)?;
            tx.execute_batch(boards::SCHEMA)?;
            Ok(())
        })
    }
}

/// How many tables and indices there are.
fn tables(connection: &Connection) -> Result<i64, StoreError> {
    let count = "SELECT count(*) FROM sqlite_schema";
    Ok(connection.query_row(count, [], |row| row.get(0))?)
}

/// Checks that the tables are ours, and of this version.
fn check(connection: &Connection) -> Result<(), StoreError> {
    let number = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
    };
    let (found, application) = (number("user_version")?, number("application_id")?);
    if application != APPLICATION || found != VERSION {
        let expected = VERSION;
        return Err(StoreError::Version { found, expected });
    }
    Ok(())
}

/// SQLite counts in signed numbers; ours stay below their greatest.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    Ok(u64::try_from(value).unwrap_or(0))
}

/// Devices, in the columns that [`device`] reads.
pub(super) const DEVICE: &str = "SELECT name, fleet, key, class, enrolled_ms, seen_ms, online,
     through, (SELECT e.epoch FROM epochs e WHERE e.device = name AND e.place = devices.place)
     FROM devices";

pub(super) fn device(row: &Row<'_>) -> rusqlite::Result<Device> {
    let class: String = row.get(3)?;
    let seen: Option<i64> = row.get(5)?;
    Ok(Device {
        name: row.get(0)?,
        fleet: row.get(1)?,
        key: PublicKey(row.get(2)?),
        class: match class == class_name(BoardClass::Mcu) {
            true => BoardClass::Mcu,
            false => BoardClass::Linux,
        },
        enrolled_ms: unsigned(row, 4)?,
        seen_ms: seen.and_then(|value| u64::try_from(value).ok()),
        online: row.get(6)?,
        through: unsigned(row, 7)?,
        epoch: row.get(8)?,
    })
}

/// Frames, in the columns that [`frame`] reads.
pub(super) const FRAME: &str =
    "SELECT device, boot, first_sequence, sequence, time_ms, received_ms, kind, body, raw,
     (SELECT e.epoch FROM epochs e WHERE e.device = frames.device AND e.place = frames.place)
     FROM frames";

pub(super) fn frame(row: &Row<'_>) -> rusqlite::Result<StoredFrame> {
    let kind: String = row.get(6)?;
    let body: String = row.get(7)?;
    Ok(StoredFrame {
        device: row.get(0)?,
        boot: row.get(1)?,
        first_sequence: unsigned(row, 2)?,
        sequence: unsigned(row, 3)?,
        time_ms: unsigned(row, 4)?,
        received_ms: unsigned(row, 5)?,
        kind: Kind::from_name(&kind).unwrap_or(Kind::Event),
        body: serde_json::from_str(&body).unwrap_or(serde_json::Value::Null),
        raw: row.get(8)?,
        epoch: row.get(9)?,
        acknowledged: 0,
    })
}

/// The hash of one audit line.
fn chained(previous: &str, time_ms: u64, action: &str, detail: &str) -> String {
    hex(&sha256(
        format!("{previous}\n{time_ms}\n{action}\n{detail}").as_bytes(),
    ))
}

/// Whether a device's name has no other key, and its key no other name.
fn check_key(connection: &Connection, asked: &Device) -> Result<(), StoreError> {
    let mut enrolled = connection
        .prepare("SELECT name, fleet FROM devices WHERE (name = ?1) <> (key = ?2)")?
        .query_map(params![asked.name, asked.key.0], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<Result<Vec<(String, String)>, _>>()?;
    match enrolled.pop() {
        None => Ok(()),
        Some((device, _)) if device == asked.name => Err(StoreError::OtherKey { device }),
        Some((device, fleet)) => Err(StoreError::SameKey { device, fleet }),
    }
}

impl Store for Sqlite {
    fn enroll(&self, device: &Device) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        check_key(&tx, device)?;
        tx.execute(
            "INSERT INTO devices (name, fleet, key, class, enrolled_ms)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (name) DO NOTHING",
            params![
                device.name,
                device.fleet,
                device.key.0,
                class_name(device.class),
                signed(device.enrolled_ms)
            ],
        )?;
        Ok(tx.commit()?)
    }

    fn check_key(&self, device: &Device) -> Result<(), StoreError> {
        check_key(&self.lock(), device)
    }

    fn expect_epoch(&self, name: &str) -> Result<(), StoreError> {
        // Nothing is older than a time that nobody knows.
        self.lock().execute(
            "UPDATE epochs SET time_ms = 0 WHERE device = ?1
             AND place = (SELECT place FROM devices WHERE name = ?1)",
            [name],
        )?;
        Ok(())
    }

    fn device(&self, name: &str) -> Result<Option<Device>, StoreError> {
        let connection = self.lock();
        let found = connection
            .prepare(&format!("{DEVICE} WHERE name = ?1"))?
            .query_row([name], device)
            .optional()?;
        Ok(found)
    }

    fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let connection = self.lock();
        let mut statement = connection.prepare(&format!("{DEVICE} ORDER BY name"))?;
        let found = statement.query_map([], device)?.collect::<Result<_, _>>()?;
        Ok(found)
    }

    fn forget(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self
            .lock()
            .execute("DELETE FROM devices WHERE name = ?1", [name])?
            > 0)
    }

    fn seen(&self, seen: &[Seen]) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        for Seen {
            device,
            online,
            time_ms,
        } in seen
        {
            tx.execute(
                "UPDATE devices SET seen_ms = max(coalesce(seen_ms, ?2), coalesce(?2, seen_ms)),
                 online = coalesce(?3, online) WHERE name = ?1",
                params![device, time_ms.map(signed), online],
            )?;
        }
        tx.commit()?;
        Ok(())
    }

    fn ingest(&self, frames: &[StoredFrame]) -> Result<Ingested, StoreError> {
        let mut names: Vec<&str> = frames.iter().map(|frame| frame.device.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        // It reads before it writes, so a writer in between would make SQLite refuse it at once.
        self.exclusively(|tx| {
            let mut counts = Ingested::default();
            for name in &names {
                let there: bool = tx
                    .prepare("SELECT EXISTS (SELECT 1 FROM devices WHERE name = ?1)")?
                    .query_row([name], |row| row.get(0))?;
                if !there {
                    return Err(StoreError::NoDevice((*name).to_owned()));
                }
            }
            for frame in frames {
                ingest::one(tx, frame, &mut counts)?;
            }
            for name in &names {
                ingest::advance(tx, name)?;
            }
            Ok(counts)
        })
    }

    fn frames(&self, query: &FrameQuery) -> Result<Vec<StoredFrame>, StoreError> {
        let connection = self.lock();
        let order = if query.newest_first { "DESC" } else { "ASC" };
        // One device's frames have an order of their own, which an index holds for each kind.
        let sorted = match query.device {
            Some(_) => format!("place {order}, sequence {order}"),
            None => {
                format!("received_ms {order}, device {order}, place {order}, sequence {order}")
            }
        };
        let mut conditions = vec!["true"];
        let mut values: Vec<&dyn rusqlite::ToSql> = Vec::new();
        let kind = query.kind.map(Kind::name);
        let (after, since) = (query.after.map(signed), query.since_ms.map(signed));
        let limit = match query.limit {
            0 => -1,
            limit => i64::try_from(limit).unwrap_or(-1),
        };
        let mut ask = |condition, value| {
            conditions.push(condition);
            values.push(value);
        };
        if let Some(fleet) = &query.fleet {
            let of = "device IN (SELECT d.name FROM devices d WHERE d.fleet = ?)";
            ask(of, fleet);
        }
        if let Some(device) = &query.device {
            ask("device = ?", device);
        }
        if let Some(kind) = &kind {
            ask("kind = ?", kind);
        }
        if let Some(after) = &after {
            ask(
                "place = (SELECT d.place FROM devices d WHERE d.name = device) AND sequence > ?",
                after,
            );
        }
        if let Some(since) = &since {
            ask("received_ms >= ?", since);
        }
        values.push(&limit);
        let sql = format!(
            "{FRAME} WHERE {} ORDER BY {sorted} LIMIT ?",
            conditions.join(" AND ")
        );
        let mut statement = connection.prepare(&sql)?;
        let found = statement
            .query_map(values.as_slice(), frame)?
            .collect::<Result<_, _>>()?;
        Ok(found)
    }

    fn count_frames(&self, device: &str) -> Result<u64, StoreError> {
        let count = "SELECT count(*) FROM frames WHERE device = ?1";
        let frames: i64 = self.lock().query_row(count, [device], |row| row.get(0))?;
        Ok(frames.unsigned_abs())
    }

    fn gaps(&self, device: &str) -> Result<Vec<(u64, u64)>, StoreError> {
        let connection = self.lock();
        let current: Option<(i64, u64)> = connection
            .query_row(
                "SELECT place, through FROM devices WHERE name = ?1",
                [device],
                |row| Ok((row.get(0)?, unsigned(row, 1)?)),
            )
            .optional()?;
        let Some((place, through)) = current else {
            return Ok(Vec::new());
        };
        ingest::gaps(&connection, device, place, through)
    }

    fn epochs(&self, device: &str) -> Result<Vec<Epoch>, StoreError> {
        ingest::epochs(&self.lock(), device, None)
    }

    fn alarm_totals(&self) -> Result<Vec<AlarmTotal>, StoreError> {
        boards::alarm_totals(&self.lock())
    }

    fn note_unknown(&self, unknown: &[Unknown]) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        boards::note_unknown(&tx, unknown)?;
        tx.commit()?;
        Ok(())
    }

    fn unknown(&self, fleet: &str) -> Result<Vec<Unknown>, StoreError> {
        boards::unknown(&self.lock(), fleet)
    }

    fn refuse(&self, refusals: &[Refusal], counts: &[(&str, u64)]) -> Result<(), StoreError> {
        let mut connection = self.lock();
        let tx = connection.transaction()?;
        for refusal in refusals {
            tx.execute(
                "INSERT INTO refusals (time_ms, topic, reason, detail) VALUES (?1, ?2, ?3, ?4)",
                params![
                    signed(refusal.time_ms),
                    refusal.topic,
                    refusal.reason,
                    refusal.detail
                ],
            )?;
        }
        tx.execute(
            "DELETE FROM refusals WHERE id <= (SELECT max(id) FROM refusals) - ?1",
            [REFUSALS],
        )?;
        for (reason, count) in counts {
            tx.execute(
                "INSERT INTO refusal_counts VALUES (?1, ?2)
                 ON CONFLICT (reason) DO UPDATE SET count = count + ?2",
                params![reason, signed(*count)],
            )?;
        }
        tx.commit()?;
        Ok(())
    }

    fn refusals(&self) -> Result<Vec<Refusal>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT time_ms, topic, reason, detail FROM refusals ORDER BY id DESC")?;
        let found = statement
            .query_map([], |row| {
                Ok(Refusal {
                    time_ms: unsigned(row, 0)?,
                    topic: row.get(1)?,
                    reason: row.get(2)?,
                    detail: row.get(3)?,
                })
            })?
            .collect::<Result<_, _>>()?;
        Ok(found)
    }

    fn refusal_counts(&self) -> Result<Vec<(String, u64)>, StoreError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("SELECT reason, count FROM refusal_counts ORDER BY reason")?;
        let found = statement
            .query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?
            .collect::<Result<_, _>>()?;
        Ok(found)
    }

    fn save_release(&self, release: &ReleaseRecord) -> Result<(), StoreError> {
        self.lock().execute(
            "INSERT INTO releases VALUES (?1, ?2, ?3) ON CONFLICT (digest) DO NOTHING",
            params![release.digest, signed(release.published_ms), json(release)?],
        )?;
        Ok(())
    }

    fn releases(&self) -> Result<Vec<ReleaseRecord>, StoreError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("SELECT record FROM releases ORDER BY published_ms DESC")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|row| from_json(&row?)).collect()
    }

    fn members(&self, fleet: &str) -> Result<Vec<Member>, StoreError> {
        rollouts::members(&self.lock(), fleet)
    }

    fn start_rollout(&self, rollout: &Rollout, time_ms: u64) -> Result<Rollout, StoreError> {
        self.exclusively(|tx| rollouts::start(tx, rollout, time_ms))
    }

    fn decide(&self, fleet: &str, decide: &mut Decide<'_>) -> Result<(), StoreError> {
        self.exclusively(|tx| rollouts::decide(tx, fleet, decide))
    }

    fn rollouts(&self, fleet: &str) -> Result<Vec<Rollout>, StoreError> {
        rollouts::all(&self.lock(), fleet)
    }

    fn newest_rollout(&self, fleet: &str) -> Result<Option<Rollout>, StoreError> {
        rollouts::newest(&self.lock(), fleet)
    }

    fn next_desired(&self, fleet: &str) -> Result<u64, StoreError> {
        rollouts::draw(&self.lock(), fleet)
    }

    fn next_desired_for(&self, rollout: &Rollout) -> Result<Option<u64>, StoreError> {
        self.exclusively(|tx| rollouts::draw_for(tx, rollout))
    }

    fn last_desired(&self, fleet: &str) -> Result<u64, StoreError> {
        rollouts::drawn(&self.lock(), fleet)
    }

    fn audit(&self, action: &str, detail: &str, time_ms: u64) -> Result<(), StoreError> {
        self.exclusively(|tx| {
            let previous: Option<String> = tx
                .query_row(
                    "SELECT hash FROM audit ORDER BY number DESC LIMIT 1",
                    [],
                    |row| row.get(0),
                )
                .optional()?;
            let hash = chained(&previous.unwrap_or_default(), time_ms, action, detail);
            tx.execute(
                "INSERT INTO audit (time_ms, action, detail, hash) VALUES (?1, ?2, ?3, ?4)",
                params![signed(time_ms), action, detail, hash],
            )?;
            Ok(())
        })
    }

    fn audit_log(&self) -> Result<Vec<AuditEntry>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT number, time_ms, action, detail, hash FROM audit ORDER BY number")?;
        let entries = statement
            .query_map([], |row| {
                Ok(AuditEntry {
                    number: unsigned(row, 0)?,
                    time_ms: unsigned(row, 1)?,
                    action: row.get(2)?,
                    detail: row.get(3)?,
                    hash: row.get(4)?,
                })
            })?
            .collect::<Result<Vec<_>, _>>()?;
        let mut previous = String::new();
        for (expected, entry) in (1..).zip(&entries) {
            let hash = chained(&previous, entry.time_ms, &entry.action, &entry.detail);
            if entry.number != expected || entry.hash != hash {
                return Err(StoreError::Corrupt(format!(
                    "line {expected} of the audit log was changed or removed"
                )));
            }
            previous = hash;
        }
        Ok(entries)
    }
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Other(error.to_string()))
}

pub(super) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}
