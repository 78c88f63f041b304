//! Reading along what a replica asks its database: as much of PostgreSQL's protocol (version 3, "Message Formats") as it
//! takes to count the statements that read credentials. The checker counts for itself what a validation costs.

use std::collections::HashMap;

/// The code of a start-up message that begins a session; others are followed by another start-up message.
const SESSION: [u8; 4] = [0, 3, 0, 0];
/// Longer messages are skipped unread: no statement of Claviger is that long.
const LONGEST: usize = 64 * 1024;

/// One connection, as read so far.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Bytes of a message that is skipped.
    skip: usize,
    in_session: bool,
    /// Prepared statements that read credentials, by name.
    prepared: HashMap<Vec<u8>, bool>,
}

impl Reader {
    /// Takes the next bytes and gives how many reads of credentials they ask for.
    pub fn read(&mut self, bytes: &[u8]) -> u64 {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
        let mut reads = 0;
        while let Some((kind, body)) = self.next_message() {
            reads += u64::from(self.is_read(kind, &body));
        }
        reads
    }

    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let header = usize::from(self.in_session);
        let length = self.buffer.get(header..header + 4)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        let end = header + length.max(4);
        if end > LONGEST {
            self.skip = end.saturating_sub(self.buffer.len());
            self.buffer.drain(..end.min(self.buffer.len()));
            return Some((0, Vec::new()));
        }
        if self.buffer.len() < end {
            return None;
        }
        let message: Vec<u8> = self.buffer.drain(..end).collect();
        if header == 0 {
            self.in_session = message.get(4..8) == Some(&SESSION);
            return Some((0, Vec::new()));
        }
        Some((message[0], message[5..].to_vec()))
    }

    fn is_read(&mut self, kind: u8, body: &[u8]) -> bool {
        let mut texts = body.split(|byte| *byte == 0);
        let (first, second) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        match kind {
            b'Q' => reads_credentials(first),
            b'P' => {
                self.prepared.insert(first.to_vec(), reads_credentials(second));
                false
            }
            // Bind: a portal, then the statement. It is executed once.
            b'B' => self.prepared.get(second).copied().unwrap_or(false),
            _ => false,
        }
    }
}

fn reads_credentials(statement: &[u8]) -> bool {
    let text = String::from_utf8_lossy(statement).to_ascii_lowercase();
    let is_query = text.trim_start().starts_with("select") || text.trim_start().starts_with("with");
    is_query && text.contains("credential")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    #[test]
    fn reads_of_credentials_are_counted_however_the_bytes_arrive() {
        let mut all = vec![0, 0, 0, 8, 4, 210, 22, 47]; // SSLRequest
        all.extend([0, 0, 0, 9, 0, 3, 0, 0, 0]);
        all.extend(message(b'P', b"s1\0SELECT * FROM \"credential\" WHERE id = $1\0\0\0"));
        all.extend(message(b'P', b"s2\0SELECT * FROM feed_head\0\0\0"));
        for statement in ["s1", "s2", "s1"] {
            all.extend(message(b'B', format!("\0{statement}\0rest").as_bytes()));
            all.extend(message(b'E', b"\0\0\0\0\0"));
        }
        all.extend(message(b'Q', &vec![b'x'; 2 * LONGEST]));
        all.extend(message(b'Q', b"select 1 from credential\0"));
        for chunk in [1, 7, 4_096, all.len()] {
            let mut reader = Reader::default();
            assert_eq!(all.chunks(chunk).map(|bytes| reader.read(bytes)).sum::<u64>(), 3, "in chunks of {chunk}");
        }
    }
}
