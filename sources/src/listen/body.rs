//! Reading a request's body: bounded in bytes as sent, in bytes as unpacked, in time, and over all requests together. What
//! is unpacked is unpacked while it arrives, so that a bomb is noticed when it passes the limit.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Buf;
use flate2::write::MultiGzDecoder;
use futures_util::{Stream, StreamExt};
use operators::error::{Refusal, excerpt};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, Operation};

/// Window that a zstd frame may ask for, as a power of two: 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// From the header's value.
    pub(super) fn parse(header: Option<&[u8]>) -> Result<Self, Refusal> {
        let name = header.unwrap_or(b"identity").trim_ascii().to_ascii_lowercase();
        match name.as_slice() {
            b"identity" | b"" => Ok(Self::Identity),
            b"gzip" | b"x-gzip" => Ok(Self::Gzip),
            b"zstd" => Ok(Self::Zstd),
            other => {
                let shown = excerpt(&String::from_utf8_lossy(other));
                let message = format!("Content-Encoding \"{shown}\" is not one of gzip, zstd, identity");
                Err(Refusal::new("encoding_unsupported", message)
                    .hint("pack the body once, with gzip or zstd, or not at all"))
            }
        }
    }
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyLimits {
    pub(super) bytes_max: usize,
    pub(super) unpacked_bytes_max: usize,
    pub(super) ms_max: u64,
}

/// Bytes of all bodies that are held at this moment.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { held: AtomicUsize::new(0), bytes_max }
    }
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl<'a> Hold<'a> {
    pub(super) fn new(budget: &'a Budget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes as much as `bytes` altogether.
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let more = bytes.saturating_sub(self.bytes);
        let held = self.budget.held.fetch_add(more, Ordering::AcqRel);
        self.bytes += more;
        if held + more > self.budget.bytes_max {
            let message = format!("requests hold {held} bytes, the limit is {}", self.budget.bytes_max);
            return Err(Refusal::new("backlog_full", message).hint("send again later"));
        }
        Ok(())
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// Reads the whole body, unpacked.
pub(super) async fn read<B: Buf>(
    body: impl Stream<Item = Result<B, warp::Error>>,
    length: Option<u64>,
    encoding: Encoding,
    limits: BodyLimits,
    hold: &mut Hold<'_>,
) -> Result<Vec<u8>, Refusal> {
    let too_large = |bytes: u64| {
        let message = format!("the body has {bytes} bytes or more, the limit is {}", limits.bytes_max);
        Refusal::new("body_too_large", message).hint("send smaller batches")
    };
    if let Some(length) = length.filter(|length| *length > limits.bytes_max as u64) {
        return Err(too_large(length));
    }
    let reading = async {
        let mut body = std::pin::pin!(body);
        let mut unpacked = Unpack::new(encoding, limits.unpacked_bytes_max)?;
        let mut bytes = 0;
        while let Some(part) = body.next().await {
            let mut part = part.map_err(|why| {
                Refusal::new("body_incomplete", format!("the body ended early after {bytes} bytes: {why}"))
            })?;
            bytes += part.remaining();
            if bytes > limits.bytes_max {
                return Err(too_large(bytes as u64));
            }
            while part.has_remaining() {
                let chunk = part.chunk();
                unpacked.push(chunk)?;
                let length = chunk.len();
                part.advance(length);
            }
            hold.grow(unpacked.out().len())?;
        }
        unpacked.finish()
    };
    match tokio::time::timeout(Duration::from_millis(limits.ms_max), reading).await {
        Ok(done) => done,
        Err(_) => {
            let message = format!("the body was not complete after {} ms", limits.ms_max);
            Err(Refusal::new("body_timeout", message).hint("send the body in one go"))
        }
    }
}

/// Bytes up to a limit.
#[derive(Debug)]
struct Limited {
    out: Vec<u8>,
    bytes_max: usize,
    exceeded: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.out.len() + bytes.len() > self.bytes_max {
            self.exceeded = true;
            return Err(std::io::Error::other("over the limit"));
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Unpacks while bytes arrive.
#[expect(clippy::large_enum_variant, reason = "one a request, on its way to one place")]
enum Unpack {
    Identity(Limited),
    Gzip(MultiGzDecoder<Limited>),
    Zstd { decoder: ZstdDecoder<'static>, out: Limited, buffer: Vec<u8>, open: bool },
}

impl Unpack {
    fn new(encoding: Encoding, bytes_max: usize) -> Result<Self, Refusal> {
        let out = Limited { out: Vec::new(), bytes_max, exceeded: false };
        Ok(match encoding {
            Encoding::Identity => Self::Identity(out),
            Encoding::Gzip => Self::Gzip(MultiGzDecoder::new(out)),
            Encoding::Zstd => {
                let fail = |why: std::io::Error| Refusal::new("zstd_corrupt", why.to_string());
                let mut decoder = ZstdDecoder::new().map_err(fail)?;
                decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(fail)?;
                Self::Zstd { decoder, out, buffer: vec![0; 64 << 10], open: false }
            }
        })
    }

    fn limited(&self) -> &Limited {
        match self {
            Self::Identity(out) | Self::Zstd { out, .. } => out,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn out(&self) -> &[u8] {
        &self.limited().out
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let done = match self {
            Self::Identity(out) => out.write_all(bytes).map_err(|why| (why, "body")),
            Self::Gzip(decoder) => decoder.write_all(bytes).map_err(|why| (why, "gzip")),
            Self::Zstd { decoder, out, buffer, open } => {
                unpack_zstd(decoder, bytes, buffer, out, open).map_err(|why| (why, "zstd"))
            }
        };
        done.map_err(|(why, format)| self.refusal(&why, format))
    }

    fn finish(mut self) -> Result<Vec<u8>, Refusal> {
        if let Self::Gzip(decoder) = &mut self
            && let Err(why) = decoder.try_finish()
        {
            return Err(self.refusal(&why, "gzip"));
        }
        match self {
            Self::Identity(out) => Ok(out.out),
            Self::Gzip(mut decoder) => Ok(std::mem::take(&mut decoder.get_mut().out)),
            Self::Zstd { open: true, .. } => Err(Refusal::new("zstd_corrupt", "the last zstd frame is cut off")),
            Self::Zstd { out, .. } => Ok(out.out),
        }
    }

    fn refusal(&self, why: &std::io::Error, format: &'static str) -> Refusal {
        let limited = self.limited();
        match format {
            _ if limited.exceeded => {
                let message = format!("the body unpacks to more than the limit of {} bytes", limited.bytes_max);
                Refusal::new("decompressed_too_large", message).hint("send smaller batches")
            }
            "gzip" => {
                Refusal::new("gzip_corrupt", format!("the body is not whole gzip: {}", excerpt(&why.to_string())))
            }
            _ => Refusal::new("zstd_corrupt", format!("the body is not whole zstd: {}", excerpt(&why.to_string()))),
        }
    }
}

fn unpack_zstd(
    decoder: &mut ZstdDecoder<'_>,
    mut bytes: &[u8],
    buffer: &mut [u8],
    out: &mut Limited,
    open: &mut bool,
) -> std::io::Result<()> {
    loop {
        let status = decoder.run_on_buffers(bytes, buffer)?;
        out.write_all(&buffer[..status.bytes_written])?;
        bytes = &bytes[status.bytes_read..];
        if status.bytes_read > 0 || status.bytes_written > 0 {
            *open = status.remaining != 0;
        }
        // With room left in the buffer nothing more is waiting inside.
        if bytes.is_empty() && status.bytes_written < buffer.len() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpack(encoding: Encoding, bytes: &[u8], bytes_max: usize, piece: usize) -> Result<Vec<u8>, &'static str> {
        let mut unpack = Unpack::new(encoding, bytes_max).unwrap();
        for piece in bytes.chunks(piece.max(1)) {
            unpack.push(piece).map_err(|why| why.code)?;
            assert!(unpack.out().len() <= bytes_max);
        }
        unpack.finish().map_err(|why| why.code)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    proptest::proptest! {
        /// Whatever the pieces in which a body arrives, it unpacks to what was packed; cut or damaged it is refused or
        /// (where a checksum does not cover the damage) gives something within the limit, and never panics.
        #[test]
        fn bodies_unpack_in_any_pieces(
            bytes in proptest::collection::vec(0u8..20, 0..5_000),
            piece in 1usize..700,
            cut in 0usize..5_000,
            flip in 0usize..5_000,
        ) {
            for (encoding, packed) in [
                (Encoding::Identity, bytes.clone()),
                (Encoding::Gzip, gzip(&bytes)),
                (Encoding::Zstd, zstd::encode_all(bytes.as_slice(), 3).unwrap()),
            ] {
                assert_eq!(unpack(encoding, &packed, 5_000, piece).unwrap(), bytes);
                if encoding == Encoding::Identity {
                    continue;
                }
                let short = &packed[..cut % packed.len()];
                if !short.is_empty() {
                    let code = unpack(encoding, short, 5_000, piece).unwrap_err();
                    assert!(matches!(code, "gzip_corrupt" | "zstd_corrupt"), "{code}");
                }
                let mut damaged = packed.clone();
                let at = flip % damaged.len();
                damaged[at] ^= 1 << (flip % 8);
                let _ = unpack(encoding, &damaged, 5_000, piece);
            }
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let zeros = vec![0; 64 << 20];
        for (encoding, bomb) in
            [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd::encode_all(&zeros[..], 3).unwrap())]
        {
            assert!(bomb.len() < 200_000);
            assert_eq!(unpack(encoding, &bomb, 1 << 20, 1_000), Err("decompressed_too_large"));
        }
        let exact = vec![7; 1 << 20];
        for (encoding, packed) in
            [(Encoding::Gzip, gzip(&exact)), (Encoding::Zstd, zstd::encode_all(&exact[..], 3).unwrap())]
        {
            assert_eq!(unpack(encoding, &packed, 1 << 20, 4_096).unwrap(), exact);
            assert_eq!(unpack(encoding, &packed, (1 << 20) - 1, 4_096), Err("decompressed_too_large"));
        }
    }

    #[test]
    fn a_wrong_checksum_is_noticed() {
        let mut packed = gzip(b"hello");
        let crc = packed.len() - 8;
        packed[crc] ^= 1;
        assert_eq!(unpack(Encoding::Gzip, &packed, 100, 3), Err("gzip_corrupt"));
        assert_eq!(unpack(Encoding::Gzip, b"plain text", 100, 3), Err("gzip_corrupt"));
        assert_eq!(unpack(Encoding::Zstd, b"plain text", 100, 3), Err("zstd_corrupt"));
    }

    #[test]
    fn encodings_are_named() {
        for (header, encoding) in
            [("gzip", Encoding::Gzip), (" ZSTD ", Encoding::Zstd), ("identity", Encoding::Identity)]
        {
            assert_eq!(Encoding::parse(Some(header.as_bytes())), Ok(encoding));
        }
        for header in ["br", "gzip, gzip", "deflate", "\u{7f}"] {
            assert_eq!(Encoding::parse(Some(header.as_bytes())).unwrap_err().code, "encoding_unsupported");
        }
        assert_eq!(Encoding::parse(None), Ok(Encoding::Identity));
    }
}
