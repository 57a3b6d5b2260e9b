//! What is read of a certificate's DER form here.
//!
//! Certificates are verified by webpki. It does not take those that were given as authorities and
//! are a server's own, and shows nobody who issued a client's.
//!
//! # Source
//! RFC 5280, section 4.1.

use diolkos_sdk::Result;
use jiff::Timestamp;
use jiff::civil::DateTime;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Fails when `now` is not within the certificate's period.
pub(crate) fn check_period(certificate: &[u8], now: UnixTime) -> Result<(), Error> {
    let (begin, end) = period(certificate).ok_or(CertificateError::BadEncoding)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < begin.as_second() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > end.as_second() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Returns the name of who issued a certificate, in DER; `None` if it cannot be read.
pub(crate) fn issuer(certificate: &[u8]) -> Option<&[u8]> {
    let name = before_issuer(certificate)?;
    let (tag, _, rest) = element(name)?;
    (tag == SEQUENCE).then(|| &name[..name.len() - rest.len()])
}

fn period(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, _, rest) = element(before_issuer(certificate)?)?;
    let (tag, validity, _) = element(rest)?;
    if tag != SEQUENCE {
        return None;
    }
    let (tag, begin, rest) = element(validity)?;
    let begin = time(tag, begin)?;
    let (tag, end, _) = element(rest)?;
    Some((begin, time(tag, end)?))
}

/// Returns a certificate's elements from the issuer on.
fn before_issuer(certificate: &[u8]) -> Option<&[u8]> {
    let within = |bytes| element(bytes).filter(|(tag, ..)| *tag == SEQUENCE);
    let (_, mut rest, _) = within(within(certificate)?.1)?;
    // Version (optional), serial number, signature.
    if rest.first() == Some(&VERSION) {
        rest = element(rest)?.2;
    }
    for _ in 0..2 {
        rest = element(rest)?.2;
    }
    Some(rest)
}

/// Splits one DER element off: its tag, its content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = bytes else { return None };
    let (length, rest) = match *length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let count = usize::from(long & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(count)?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

fn time(tag: u8, content: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(content).ok()?;
    let full = match tag {
        // Two digits of the year: 50 and above are of the last century.
        UTC_TIME if text.get(..2)? >= "50" => format!("19{text}"),
        UTC_TIME => format!("20{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%SZ", full).ok()?;
    civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate() -> CertificateDer<'static> {
        let pem = include_bytes!("../tests/tls/self-signed.crt");
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    fn at(text: &str) -> UnixTime {
        let timestamp: Timestamp = text.parse().unwrap();
        UnixTime::since_unix_epoch(Duration::from_secs(timestamp.as_second().try_into().unwrap()))
    }

    #[test]
    fn a_certificate_is_valid_from_its_first_to_its_last_second() {
        let certificate = certificate();
        let (begin, end) = period(&certificate).unwrap();
        assert!(check_period(&certificate, at(&begin.to_string())).is_ok());
        assert!(check_period(&certificate, at(&end.to_string())).is_ok());
        assert_eq!(
            check_period(&certificate, at("1999-01-01T00:00:00Z")),
            Err(CertificateError::NotValidYet.into())
        );
        assert_eq!(
            check_period(&certificate, at("2199-01-01T00:00:00Z")),
            Err(CertificateError::Expired.into())
        );
    }

    #[test]
    fn a_certificate_tells_who_issued_it() {
        let certificate = certificate();
        let issuer = issuer(&certificate).unwrap();
        assert_eq!(issuer[0], SEQUENCE);
        // One that signed itself has the name twice.
        let times = certificate.windows(issuer.len()).filter(|window| *window == issuer).count();
        assert_eq!(times, 2);
    }

    #[test]
    fn both_forms_of_time_are_read() {
        assert_eq!(time(UTC_TIME, b"491231235959Z").unwrap().to_string(), "2049-12-31T23:59:59Z");
        assert_eq!(time(UTC_TIME, b"500101000000Z").unwrap().to_string(), "1950-01-01T00:00:00Z");
        assert_eq!(
            time(GENERALIZED_TIME, b"21250101000000Z").unwrap().to_string(),
            "2125-01-01T00:00:00Z"
        );
    }

    proptest! {
        #[test]
        fn damaged_certificates_are_refused_without_panic(
            at in 0..300usize, byte: u8, cut in 0..600usize
        ) {
            let mut bytes = certificate().to_vec();
            let index = at % bytes.len();
            bytes[index] = byte;
            bytes.truncate(cut);
            let _ = (period(&bytes), issuer(&bytes));
        }
    }
}
