use super::*;
use crate::telemetry::{Event, Refused, Summary};
use embedded_storage::nor_flash::{ErrorType, ReadNorFlash};

#[derive(Debug, Clone)]
struct Flash(std::vec::Vec<u8>);

impl ErrorType for Flash {
    type Error = NorFlashErrorKind;
}
impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;
    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
        Ok(())
    }
    fn capacity(&self) -> usize {
        self.0.len()
    }
}
impl NorFlash for Flash {
    const WRITE_SIZE: usize = 4;
    const ERASE_SIZE: usize = 1024;
    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        self.0[from as usize..to as usize].fill(0xFF);
        Ok(())
    }
    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        for (cell, byte) in self.0[offset as usize..].iter_mut().zip(bytes) {
            assert_eq!(*cell, 0xFF, "written twice");
            *cell = *byte;
        }
        Ok(())
    }
}

const BUFFER: usize = max_record_bytes(1, 1);
type Box4 = Outbox<Flash, 1, 1, 64, BUFFER>;
const REGION: Region = Region {
    offset: 1024,
    sector_bytes: 1024,
    sectors: 4,
};

fn summary(samples: u32) -> Body<1, 1> {
    let mut summary = Summary::empty();
    summary.windows = 1;
    summary.samples = samples;
    Body::Summary(summary)
}

fn event() -> Body<1, 1> {
    Body::Event(Event::Refused {
        what: Refused::Command,
    })
}

/// Each waiting record: range, samples, dropped.
fn contents(outbox: &mut Box4) -> std::vec::Vec<(u64, u64, u32, u32)> {
    let mut all = std::vec::Vec::new();
    let mut after = 0;
    while let Some(record) = outbox.peek_after(after).expect("reads") {
        after = record.sequence;
        let body: Body<1, 1> = decode_body(record.body).expect("readable");
        let (samples, dropped) = match body {
            Body::Summary(s) => (s.samples, s.dropped_events),
            _ => (0, 0),
        };
        all.push((record.first_sequence, record.sequence, samples, dropped));
    }
    all
}

#[test]
fn frames_are_numbered_over_boots_and_kept_until_acknowledged() {
    let mut outbox = Box4::open(Flash(vec![0xFF; 8192]), REGION, 1).expect("opens");
    assert_eq!(outbox.push(10, &summary(5)), Ok(1));
    assert_eq!(outbox.push(11, &event()), Ok(2));
    let mut outbox = Box4::open(outbox.into_flash(), REGION, 2).expect("opens");
    assert_eq!(outbox.push(12, &summary(7)), Ok(3));
    assert_eq!(
        contents(&mut outbox),
        [(1, 1, 5, 0), (2, 2, 0, 0), (3, 3, 7, 0)]
    );
    assert_eq!(outbox.acknowledge(2), Ok(()));
    assert_eq!(contents(&mut outbox), [(3, 3, 7, 0)]);
    let mut outbox = Box4::open(outbox.into_flash(), REGION, 3).expect("opens");
    assert_eq!(contents(&mut outbox), [(3, 3, 7, 0)]);
    assert_eq!(outbox.acknowledge(3), Ok(()));
    assert!(outbox.acknowledge(4).is_err());
    let outbox = Box4::open(outbox.into_flash(), REGION, 4).expect("opens");
    assert!(outbox.is_empty());
    assert_eq!(outbox.next_sequence(), 4);
}

#[test]
fn a_full_outbox_loses_resolution_and_no_count() {
    let mut outbox = Box4::open(Flash(vec![0xFF; 8192]), REGION, 1).expect("opens");
    let (mut samples, mut events) = (0, 0);
    for n in 1..=500 {
        if n % 7 == 0 {
            assert_eq!(outbox.push(u64::from(n), &event()), Ok(u64::from(n)));
            events += 1;
        } else {
            assert_eq!(outbox.push(u64::from(n), &summary(n)), Ok(u64::from(n)));
            samples += n;
        }
        let all = contents(&mut outbox);
        let mut expected = 1;
        for (first, last, ..) in &all {
            assert_eq!(*first, expected, "{all:?}");
            expected = last + 1;
        }
        assert_eq!(expected, u64::from(n) + 1);
        assert_eq!(all.iter().map(|r| r.2).sum::<u32>(), samples);
        let kept = all
            .iter()
            .filter(|r| r.0 == r.1 && r.2 == 0 && r.3 == 0)
            .count();
        assert_eq!(all.iter().map(|r| r.3).sum::<u32>() + kept as u32, events);
    }
    assert!(outbox.len() > 3, "{}", outbox.len());
}
