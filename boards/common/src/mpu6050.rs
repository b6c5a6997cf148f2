//! An MPU-6050, or what answers like one: accelerometer in g and gyroscope in radians a second, ten samples a
//! second.
//!
//! It is asked on a blocking bus: a sample takes 14 bytes, less than half a millisecond at 400 kHz.

use edgeward::contract::SourceInfo;
use edgeward::profile::DType;
use edgeward_mcu::board::{Reading, Sensor};
use embassy_time::{Duration, Instant, Timer};
use embedded_hal::i2c::I2c;

const ADDRESS: u8 = 0x68;
/// Registers.
const CONFIG: u8 = 0x1A;
const GYRO_CONFIG: u8 = 0x1B;
const ACCEL_CONFIG: u8 = 0x1C;
const ACCEL: u8 = 0x3B;
const POWER: u8 = 0x6B;
/// What it is set to: awake, by the gyroscope's clock; below 44 Hz; 500 degrees a second; 4 g.
const SETTINGS: [(u8, u8); 4] = [
    (POWER, 1),
    (CONFIG, 3),
    (GYRO_CONFIG, 1 << 3),
    (ACCEL_CONFIG, 1 << 3),
];
/// Steps in a g, and in a radian a second.
const PER_G: f32 = 8192.0;
const PER_RADIAN: f32 = 65.5 * 57.295_78;

const PERIOD: Duration = Duration::from_millis(100);
/// What it measures: a board with it has room for models of as many features.
pub const FEATURES: [&str; 6] = ["ax", "ay", "az", "gx", "gy", "gz"];

/// The sensor.
pub struct Mpu6050<B> {
    bus: B,
    /// Set up since it answered last.
    ready: bool,
    sequence: u32,
    due: Instant,
}

impl<B: I2c> Mpu6050<B> {
    /// The sensor on that bus, whether it answers or not: one that does not is asked again and again.
    pub fn new(bus: B) -> Self {
        Self {
            bus,
            ready: false,
            sequence: 0,
            due: Instant::now(),
        }
    }

    fn set_up(&mut self) -> Result<(), B::Error> {
        let mut set = |(register, value)| self.bus.write(ADDRESS, &[register, value]);
        SETTINGS.into_iter().try_for_each(&mut set)
    }

    fn measure(&mut self) -> Result<[f32; 6], B::Error> {
        // Three axes, the temperature, three axes, each a big-endian number.
        let mut bytes = [0; 14];
        self.bus.write_read(ADDRESS, &[ACCEL], &mut bytes)?;
        let step = |at: usize| f32::from(i16::from_be_bytes([bytes[at], bytes[at + 1]]));
        Ok([
            step(0) / PER_G,
            step(2) / PER_G,
            step(4) / PER_G,
            step(8) / PER_RADIAN,
            step(10) / PER_RADIAN,
            step(12) / PER_RADIAN,
        ])
    }
}

impl<B: I2c> Sensor for Mpu6050<B> {
    fn source(&self) -> SourceInfo<'_> {
        SourceInfo {
            schema_version: 1,
            dtype: DType::F32,
            feature_version: 0,
            features: &FEATURES,
        }
    }

    async fn next(&mut self, values: &mut [f32]) -> Reading {
        loop {
            Timer::at(self.due).await;
            let now = Instant::now();
            // What was slept through is not made up for.
            self.due = (self.due + PERIOD).max(now);
            if !self.ready {
                self.ready = self.set_up().is_ok();
                if self.ready {
                    return Reading::Reset;
                }
                continue;
            }
            let Ok(measured) = self.measure() else {
                defmt::warn!("the sensor does not answer");
                self.ready = false;
                continue;
            };
            for (value, measured) in values.iter_mut().zip(measured) {
                *value = measured;
            }
            self.sequence = self.sequence.wrapping_add(1);
            return Reading::Sample {
                sequence: self.sequence,
                time_ms: now.as_millis(),
                count: measured.len(),
            };
        }
    }
}
