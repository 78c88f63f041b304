//! What a client sends on a connection of HTTP/2, as far as the heads of its frames tell.
//!
//! Frames that belong to a call (HEADERS, and DATA that is not empty) are what the connection is there for. All others are
//! control frames: PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, CONTINUATION, `RST_STREAM`, empty DATA. Each costs the
//! service more than its sender, so a client may send few of them that belong to nothing:
//!
//! - A connection ends after so many bytes of control frames in a row without a frame of a call between them.
//! - Reading pauses while the client has used up its allowance of control frames, which grows with time, with its calls and
//!   with the bytes that it reads. So clients that do work never feel it, and a flood of PINGs costs next to nothing.
//!
//! This does not check the protocol; the transport behind it does.

use std::time::{Duration, Instant};

/// The bytes before a frame's payload.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// The flag of DATA that begins with the length of its padding.
const PADDED: u8 = 8;

/// Control frames that a client may send at once.
const ALLOWANCE: i64 = 1_000;
/// By how much the allowance grows in a second.
const PER_SECOND: i64 = 100;
/// By how much the allowance grows with each frame of a call: its window updates, the end of its body.
const PER_CALL_FRAME: i64 = 4;
/// For each so many bytes that the client reads it may send one more control frame.
const READ_PER_FRAME: usize = 1_024;

/// Reads the heads of the frames of one connection.
pub(super) struct FrameMeter {
    head: [u8; HEAD],
    /// How much of the head was read.
    head_read: usize,
    /// How much of the payload is yet to come.
    payload_left: usize,
    /// The next byte is the length of the padding of DATA.
    padding_next: bool,
    /// Bytes of control frames since the last frame of a call.
    control_bytes: u64,
    allowance: i64,
    /// When the allowance grew with time, last.
    grown_at: Option<Instant>,
    /// Bytes that the client read and that did not add to the allowance yet.
    written: usize,
}

impl FrameMeter {
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            head_read: 0,
            payload_left: 0,
            padding_next: false,
            control_bytes: 0,
            allowance: ALLOWANCE,
            grown_at: None,
            written: 0,
        }
    }

    /// Takes note of bytes that were read from the client, in order.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        loop {
            if self.padding_next {
                let Some((padding, rest)) = bytes.split_first() else { return };
                bytes = rest;
                self.padding_next = false;
                self.payload_left -= 1;
                self.data(self.payload_left > usize::from(*padding));
            }
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let wanted = (HEAD - self.head_read).min(bytes.len());
            self.head[self.head_read..self.head_read + wanted].copy_from_slice(&bytes[..wanted]);
            self.head_read += wanted;
            bytes = &bytes[wanted..];
            if self.head_read < HEAD {
                return;
            }
            self.head_read = 0;
            self.begin_frame();
        }
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match kind {
            HEADERS => self.call_frame(),
            DATA if flags & PADDED != 0 && self.payload_left > 0 => self.padding_next = true,
            DATA => self.data(self.payload_left > 0),
            _ => self.control_frame(),
        }
    }

    fn data(&mut self, has_content: bool) {
        if has_content {
            self.call_frame();
        } else {
            self.control_frame();
        }
    }

    fn call_frame(&mut self) {
        self.control_bytes = 0;
        self.allowance = (self.allowance + PER_CALL_FRAME).min(ALLOWANCE);
    }

    fn control_frame(&mut self) {
        self.control_bytes += (HEAD + self.payload_left) as u64;
        self.allowance -= 1;
    }

    /// Takes note of bytes that the client accepted.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.written >= READ_PER_FRAME {
            let frames = i64::try_from(self.written / READ_PER_FRAME).unwrap_or(ALLOWANCE);
            self.allowance = self.allowance.saturating_add(frames).min(ALLOWANCE);
            self.written %= READ_PER_FRAME;
        }
    }

    /// Bytes of control frames since the last frame of a call.
    pub(super) fn control_bytes(&self) -> u64 {
        self.control_bytes
    }

    /// Whether the allowance is used up, and reading has to pause unless time has made up for it.
    pub(super) fn is_exhausted(&self) -> bool {
        self.allowance < 0
    }

    /// How long reading has to pause from `now` on.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(*self.grown_at.get_or_insert(now));
        let earned = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX).saturating_mul(PER_SECOND) / 1_000;
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(ALLOWANCE);
            self.grown_at = Some(now);
        }
        if self.allowance >= 0 {
            return Duration::ZERO;
        }
        Duration::from_millis(self.allowance.unsigned_abs() * 1_000 / PER_SECOND.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const END_STREAM: u8 = 1;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    fn control_bytes_of(bytes: &[u8]) -> u64 {
        let mut meter = FrameMeter::new();
        meter.read(bytes);
        meter.control_bytes()
    }

    #[test]
    fn bytes_of_control_frames_count_until_a_frame_of_a_call() {
        let ping = frame(PING, 0, &[0; 8]);
        assert_eq!(control_bytes_of(&ping.repeat(3)), 51);
        assert_eq!(control_bytes_of(&[ping.repeat(3), frame(HEADERS, 0, b"x"), ping.clone()].concat()), 17);
        assert_eq!(control_bytes_of(&[ping.repeat(3), frame(DATA, 0, b"x"), ping.clone()].concat()), 17);
        assert_eq!(control_bytes_of(&[frame(DATA, 0, b""), frame(DATA, END_STREAM, b"")].concat()), 18);
    }

    #[test]
    fn data_that_is_nothing_but_padding_is_empty() {
        let padding_alone = frame(DATA, PADDED, &[[255].as_slice(), &[0; 255]].concat());
        assert_eq!(control_bytes_of(&padding_alone), 9 + 255);
        let one_byte = frame(DATA, PADDED, &[[254].as_slice(), &[0; 255]].concat());
        assert_eq!(control_bytes_of(&one_byte), 0);
        assert_eq!(control_bytes_of(&frame(DATA, PADDED, &[])), 9);
    }

    #[test]
    fn it_does_not_matter_in_what_pieces_the_bytes_arrive() {
        let frames = [
            frame(PING, 0, &[0; 8]),
            frame(DATA, 0, &[1; 300]),
            frame(4, 0, &[0; 6]),
            frame(DATA, PADDED, &[3, 0, 0, 0]),
            frame(8, 0, &[0; 4]),
        ]
        .concat();
        let whole = control_bytes_of(&frames);
        assert_eq!(whole, 15 + 12 + 13);
        for piece in [1, 2, 5, 9, 10, 64] {
            let mut meter = FrameMeter::new();
            frames.chunks(piece).for_each(|bytes| meter.read(bytes));
            assert_eq!(meter.control_bytes(), whole, "{piece}");
        }
    }

    #[test]
    fn a_flood_pauses_until_time_has_made_up_for_it() {
        let (mut meter, begin) = (FrameMeter::new(), Instant::now());
        let after = |millis| begin + Duration::from_millis(millis);
        assert_eq!(meter.pause(begin), Duration::ZERO);
        meter.read(&frame(PING, 0, &[0; 8]).repeat(1_000));
        assert!(!meter.is_exhausted());
        meter.read(&frame(PING, 0, &[0; 8]).repeat(50));
        assert!(meter.is_exhausted());
        assert_eq!(meter.pause(begin), Duration::from_millis(500));
        assert_eq!(meter.pause(after(200)), Duration::from_millis(300));
        assert_eq!(meter.pause(after(500)), Duration::ZERO);
    }

    #[test]
    fn calls_and_answers_that_are_read_allow_for_control_frames() {
        let mut meter = FrameMeter::new();
        let call = [frame(HEADERS, 0, b"x"), frame(DATA, 0, b"y"), frame(DATA, END_STREAM, b"")].concat();
        let updates = frame(8, 0, &[0; 4]).repeat(2);
        for _ in 0..10_000 {
            meter.read(&call);
            meter.read(&updates);
        }
        // A stream that is read alone, with a window update for each two KiB.
        for _ in 0..10_000 {
            meter.wrote(2 * READ_PER_FRAME);
            meter.read(&updates);
        }
        assert!(!meter.is_exhausted());
    }
}
