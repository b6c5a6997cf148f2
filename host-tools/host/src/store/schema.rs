//! The tables of the SQLite store.

pub(super) const SCHEMA: &str = "
CREATE TABLE devices (
  name TEXT PRIMARY KEY, fleet TEXT NOT NULL, key BLOB NOT NULL, class TEXT NOT NULL,
  enrolled_ms INTEGER NOT NULL, seen_ms INTEGER, online INTEGER NOT NULL DEFAULT 0,
  place INTEGER NOT NULL DEFAULT 0, through INTEGER NOT NULL DEFAULT 0
) STRICT;
-- A device's outboxes in the order in which they were begun: place 1, 2 and so on.
CREATE TABLE epochs (
  device TEXT NOT NULL REFERENCES devices(name) ON DELETE CASCADE,
  place INTEGER NOT NULL, epoch INTEGER NOT NULL, time_ms INTEGER NOT NULL,
  begun_ms INTEGER NOT NULL, elsewhere INTEGER NOT NULL,
  PRIMARY KEY (device, place), UNIQUE (device, epoch)
) STRICT;
CREATE TABLE frames (
  device TEXT NOT NULL REFERENCES devices(name) ON DELETE CASCADE,
  place INTEGER NOT NULL, sequence INTEGER NOT NULL, first_sequence INTEGER NOT NULL, boot INTEGER NOT NULL,
  time_ms INTEGER NOT NULL, received_ms INTEGER NOT NULL, kind TEXT NOT NULL,
  body TEXT NOT NULL, raw BLOB NOT NULL,
  PRIMARY KEY (device, place, sequence, first_sequence)
) STRICT;
CREATE INDEX frames_by_kind ON frames (kind, received_ms);
CREATE INDEX frames_by_device ON frames (device, kind, place, sequence);
CREATE TABLE refusals (
  id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL,
  detail TEXT NOT NULL
) STRICT;
CREATE TABLE refusal_counts (reason TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
CREATE TABLE releases (digest TEXT PRIMARY KEY, published_ms INTEGER NOT NULL, record TEXT NOT NULL) STRICT;
CREATE TABLE rollouts (
  id TEXT NOT NULL, fleet TEXT NOT NULL, started_ms INTEGER NOT NULL, record TEXT NOT NULL,
  PRIMARY KEY (fleet, id)
) STRICT;
CREATE TABLE desired (fleet TEXT PRIMARY KEY, sequence INTEGER NOT NULL) STRICT;
CREATE TABLE audit (
  number INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, action TEXT NOT NULL, detail TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT;
";
