//! The socket of a client, which lets no large message in and waits for no client that does not read.
//!
//! Invariant: of a message that is longer than allowed not more is taken than its head.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Longest message of a client, in bytes: a question of the most bytes, and parameters beside it.
pub const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// What stands in front of a connection's first messages, which have no letter: SSL and GSS requests, after which another such
/// follows.
const ASKED_AGAIN: [u32; 2] = [80_877_103, 80_877_104];

/// Finds where messages begin and end.
#[derive(Debug, Default)]
pub struct Heads {
    /// The beginning of a message, as far as it is there.
    head: Vec<u8>,
    /// Bytes of the message that are still to come.
    body: usize,
    /// Whether messages begin with a letter now.
    lettered: bool,
}

impl Heads {
    /// Looks at bytes as they come.
    ///
    /// # Errors
    /// A message begins that says it is longer than allowed, or shorter than it can be: that many bytes.
    pub fn look(&mut self, mut bytes: &[u8]) -> Result<(), usize> {
        while !bytes.is_empty() {
            if self.body > 0 {
                let taken = self.body.min(bytes.len());
                self.body -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            // A letter and a length; or a length and a code.
            let whole = if self.lettered { 5 } else { 8 };
            let taken = (whole - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == whole {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), usize> {
        let number = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (length, counted) = if self.lettered { (number(&self.head[1..]), 4) } else { (number(&self.head), 8) };
        let length = length as usize;
        if !(counted..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(length);
        }
        if !self.lettered {
            self.lettered = !ASKED_AGAIN.contains(&number(&self.head[4..]));
        }
        self.body = length - counted;
        self.head.clear();
        Ok(())
    }
}

/// A socket within limits.
pub struct Limited<S> {
    socket: S,
    heads: Heads,
    stall: Duration,
    /// When a write that makes no progress is given up.
    deadline: Pin<Box<Sleep>>,
    writing: bool,
}

impl<S> Limited<S> {
    /// Around a new connection; `stall` is how long a write may wait.
    pub fn new(socket: S, stall: Duration) -> Self {
        Limited { socket, heads: Heads::default(), stall, deadline: Box::pin(sleep(stall)), writing: false }
    }

    /// Fails a write that waits for too long.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if !self.writing {
            self.writing = true;
            self.deadline.as_mut().reset(Instant::now() + self.stall);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client does not read what it asked for"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, into))?;
        let looked = self.heads.look(&into.filled()[before..]);
        Poll::Ready(looked.map_err(|length| {
            let why = format!("a message of {length} bytes; from 4 to {MESSAGE_BYTES_MAX} are taken");
            io::Error::new(io::ErrorKind::InvalidData, why)
        }))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.socket).poll_write(context, bytes) {
            Poll::Ready(done) => {
                self.writing = false;
                Poll::Ready(done)
            }
            Poll::Pending => self.wait(context).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup() -> Vec<u8> {
        [&12_u32.to_be_bytes()[..], &196_608_u32.to_be_bytes(), b"a\0\0\0"].concat()
    }

    #[test]
    fn messages_are_found_however_they_come() {
        let ssl = [8_u32.to_be_bytes(), 80_877_103_u32.to_be_bytes()].concat();
        let query = [b"Q".as_slice(), &9_u32.to_be_bytes(), b"SEL\0\0"].concat();
        let all = [ssl, startup(), query.clone(), query].concat();
        for piece in 1..all.len() {
            let mut heads = Heads::default();
            all.chunks(piece).for_each(|bytes| heads.look(bytes).unwrap());
            assert_eq!((heads.body, heads.head.len(), heads.lettered), (0, 0, true), "{piece}");
        }
    }

    #[test]
    fn long_messages_are_refused_by_their_head() {
        let long = |length: u32| [&startup()[..], b"Q", &length.to_be_bytes()].concat();
        let look = |bytes: &[u8]| Heads::default().look(bytes);
        assert_eq!(look(&long(MESSAGE_BYTES_MAX as u32)), Ok(()));
        assert_eq!(look(&long(MESSAGE_BYTES_MAX as u32 + 1)), Err(MESSAGE_BYTES_MAX + 1));
        assert_eq!(look(&long(3)), Err(3));
        assert_eq!(look(b"GET / HTTP/1.1\r\n\r\n"), Err(0x4745_5420));
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let (mut heads, mut whole) = (Heads::default(), Heads::default());
            let one_by_one = pieces.iter().try_for_each(|piece| heads.look(piece));
            prop_assert_eq!(one_by_one, whole.look(&pieces.concat()));
        }
    }
}
