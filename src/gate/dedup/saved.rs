//! The state of the gate as bytes.
//!
//! Format 2: the number of inputs (8 bytes), then for each its content hash, the id of its first sample (16 each), the time
//! in microseconds (8) and its copies (4); then the rows that are compared nearly, each with content hash, id, time, levels
//! (8), its numbers and its signature (4 bytes of length before either). All in little-endian order. Format 1 held
//! hexadecimal digits, without copies; it is refused.

use uuid::Uuid;

use super::{Deduplicate, First, Kept, Near};
use crate::error::{BoxError, message};
use crate::event::PredictionId;
use crate::gate::recent::Recent;
use crate::stage::Snapshot;
use crate::stats::minhash::{Signature, VALUES};

const FORMAT: u32 = 2;
/// Bytes of one input.
const ENTRY: usize = 44;

pub(super) fn save(gate: &Deduplicate) -> Snapshot {
    let mut bytes = Vec::with_capacity(8 + gate.seen.len() * ENTRY);
    bytes.extend_from_slice(&(gate.seen.len() as u64).to_le_bytes());
    for (content, first) in gate.seen.iter() {
        put_name(&mut bytes, content, first.id, first.time);
        bytes.extend_from_slice(&first.copies.to_le_bytes());
    }
    let mut put = |kept: &Kept, levels: u64, values: &[f64], signature: &[u32]| {
        put_name(&mut bytes, kept.content, kept.id, kept.time);
        bytes.extend_from_slice(&levels.to_le_bytes());
        bytes.extend_from_slice(&(values.len() as u32).to_le_bytes());
        values.iter().for_each(|value| bytes.extend_from_slice(&value.to_bits().to_le_bytes()));
        bytes.extend_from_slice(&(signature.len() as u32).to_le_bytes());
        signature.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()));
    };
    match &gate.near {
        Near::Off => {}
        Near::Rows(rows) => rows.iter().for_each(|(levels, values, (kept, signature))| {
            put(kept, levels, values, signature.as_deref().unwrap_or_default());
        }),
        Near::Texts(texts) => texts.iter().for_each(|(signature, kept)| put(kept, 0, &[], signature)),
    }
    Snapshot::save_bytes(FORMAT, &bytes)
}

fn put_name(bytes: &mut Vec<u8>, content: u128, id: PredictionId, time: i64) {
    bytes.extend_from_slice(&content.to_le_bytes());
    bytes.extend_from_slice(id.bytes());
    bytes.extend_from_slice(&time.to_le_bytes());
}

/// Takes over what was saved; if it is damaged, nothing changes.
pub(super) fn restore(gate: &mut Deduplicate, snapshot: &Snapshot) -> Result<(), BoxError> {
    let bytes = snapshot.load_bytes(FORMAT)?;
    let mut bytes = Bytes(&bytes);
    let mut seen = Recent::new(gate.capacity);
    for _ in 0..u64::from_le_bytes(bytes.take()?) {
        let Kept { content, id, time } = bytes.name()?;
        let copies = u32::from_le_bytes(bytes.take()?);
        seen.entry(content, || First { id, time, copies });
    }
    let mut near = gate.near.emptied();
    while !bytes.0.is_empty() {
        let kept = bytes.name()?;
        let levels = u64::from_le_bytes(bytes.take()?);
        let values = (0..bytes.length()?).map(|_| Ok(f64::from_bits(u64::from_le_bytes(bytes.take()?))));
        let values: Vec<f64> = values.collect::<Result<_, BoxError>>()?;
        let signature = (0..bytes.length()?).map(|_| Ok(u32::from_le_bytes(bytes.take()?)));
        let signature: Signature = signature.collect::<Result<_, BoxError>>()?;
        if matches!(&near, Near::Rows(rows) if !rows.space().fits(&values)) {
            // The schema has more columns now: no row will be near this one.
            continue;
        }
        near.push(kept, levels, &values, Some(signature).filter(|signature| signature.len() == VALUES));
        while near.len() > gate.near_capacity {
            near.forget_oldest();
        }
    }
    (gate.seen, gate.near) = (seen, near);
    Ok(())
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BoxError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| message("the remembered inputs are cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn length(&mut self) -> Result<u32, BoxError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn name(&mut self) -> Result<Kept, BoxError> {
        let content = u128::from_le_bytes(self.take()?);
        let id = PredictionId::from_uuid(Uuid::from_bytes(self.take()?));
        Ok(Kept { content, id, time: i64::from_le_bytes(self.take()?) })
    }
}
