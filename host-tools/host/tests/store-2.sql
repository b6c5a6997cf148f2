-- The store of a host that knew no frames but those of version 2: the tables of that program, and a birth, a
-- summary and an event as they were stored, signed with the key of the seed of 32 bytes 07.
PRAGMA application_id = 1162102615;
PRAGMA user_version = 2;
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
CREATE TABLE unknown (
  fleet TEXT NOT NULL, name TEXT NOT NULL, key_id TEXT NOT NULL, first_ms INTEGER NOT NULL,
  seen_ms INTEGER NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (fleet, name, key_id)
) STRICT;
CREATE TABLE alarm_totals (
  device TEXT NOT NULL REFERENCES devices(name) ON DELETE CASCADE, alarm TEXT NOT NULL,
  count INTEGER NOT NULL, PRIMARY KEY (device, alarm)
) STRICT;
INSERT INTO devices VALUES ('board-1', 'plant-7', X'ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c', 'linux', 1700000000000, 1700000000103, 0, 1, 3);
INSERT INTO epochs VALUES ('board-1', 1, 1, 1700000000000, 1700000000101, 0);
INSERT INTO alarm_totals VALUES ('board-1', 'stuck', 1);
INSERT INTO frames (device, place, sequence, first_sequence, boot, time_ms, received_ms, kind, body, raw) VALUES ('board-1', 1, 1, 1, 1, 1700000000000, 1700000000101, 'birth',
  '{"class":"Linux","desired":5,"firmware":"0.1.0","floor":6,"last_failure":[[1,1,1,1,1,1,1,1],"Crash"],"root_version":1,"running":1,"slots":[{"counter":7,"release":[9,9,9,9,9,9,9,9],"state":{"Rejected":"SelfTest"},"version":"1.2.3"},{"counter":7,"release":[9,9,9,9,9,9,9,9],"state":{"Rejected":"SelfTest"},"version":"1.2.3"}],"tags":["site-a"]}',
  X'd284582aa3012703781a6170706c69636174696f6e2f65646765776172642d6672616d650448fe812c12f3ab4ce6a058558207626f6172642d31010001010180d095ffbc31000005302e312e30060509090909090909090705312e322e33060509090909090909090705312e322e3301010601050106736974652d610101010101010101010a58404194ef0b78ee7d7f71b0ebe821287e01a1800ed74e42c9fbbd10e86d90d6c3841ec49d30e03918062a49a7d528d5b3bb8fa4769dca54185f3537ebd499735a07');
INSERT INTO frames (device, place, sequence, first_sequence, boot, time_ms, received_ms, kind, body, raw) VALUES ('board-1', 1, 2, 2, 1, 1700000000000, 1700000000102, 'summary',
  '{"alarms":0,"dropped_events":0,"errors":0,"fallbacks":0,"features":[{"bins":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"m2":0.0,"max":null,"mean":0.5,"min":null,"n":0,"violations":[0,0,0,0,0,0,0]},{"bins":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"m2":0.0,"max":null,"mean":0.5,"min":null,"n":1,"violations":[0,0,0,0,0,0,0]},{"bins":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"m2":0.0,"max":null,"mean":0.5,"min":null,"n":2,"violations":[0,0,0,0,0,0,0]},{"bins":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"m2":0.0,"max":null,"mean":0.5,"min":null,"n":3,"violations":[0,0,0,0,0,0,0]}],"from_ms":1700000000000,"inferences":0,"latency":{"counts":[[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],[0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0],[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0]],"max_us":70},"output":{"above_p99":300,"below_p01":0,"classes":[1,200,3],"entropy_sum":0.0,"expected_right":0.0,"n":0,"score_m2":0.0,"score_mean":0.0,"z_outliers":0},"rejected":0,"release":[2,2,2,2,2,2,2,2],"samples":300,"to_ms":1700000060000,"violations":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"windows":2}',
  X'd284582aa3012703781a6170706c69636174696f6e2f65646765776172642d6672616d650448fe812c12f3ab4ce6a059013f8207626f6172642d31010001020280d095ffbc310102020202020202020280d095ffbc31e0a499ffbc31ac02000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001000000000000000000000000000000000000000000000000000000000000000000000000000000460400000000000000000000000000000000000000003f000000000000807f000080ff0000000000000000000000000000000000000000000000010000003f000000000000807f000080ff0000000000000000000000000000000000000000000000020000003f000000000000807f000080ff0000000000000000000000000000000000000000000000030000003f000000000000807f000080ff00000000000000000301c80103000000000000000000000000000000000000ac0258407eb4ba011643458872ab5ca684e47c6af1731f593a86b88fbc34fd1770e24e9e6fda3a92f789c94f4c7e70b3401c4507f8e1973685f70418c92cbe77eb8a2900');
INSERT INTO frames (device, place, sequence, first_sequence, boot, time_ms, received_ms, kind, body, raw) VALUES ('board-1', 1, 3, 3, 1, 1700000000000, 1700000000103, 'event',
  '{"Alarm":{"alarm":{"Violation":{"feature":2,"kind":"Stuck","sample":99,"value":1.5}},"release":[2,2,2,2,2,2,2,2]}}',
  X'd284582aa3012703781a6170706c69636174696f6e2f65646765776172642d6672616d650448fe812c12f3ab4ce6a058278207626f6172642d31010001030380d095ffbc3102000202020202020202000501020000c03f6358409c9e42d9b5cacf0b3c8d7aa7ac9fed86b6dc5bbeaf86e134e4102723c76f64194fff594e9f4d2566b3a20bac10bb7bccd562dc2c5d321d80ee08ebd9c7a6a402');
