//! The observations of a window, column by column.

use std::collections::BinaryHeap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::chunk::Chunk;
use crate::error::{BoxError, message};
use crate::schema::row_floats;
use crate::stats::sampling::keyed;

const SEED: u64 = 0x7469_6d65_2077_696e;

/// Forgotten rows keep their places while the others are more than so many times as many.
const LATE: usize = 64;

/// Observations of a window.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    values: Vec<Vec<f64>>,
    codes: Vec<Vec<u32>>,
    len: usize,
    /// Rows at the front that took part in the last test.
    old: usize,
    /// Forgotten rows whose places before the others are not yet taken back.
    gone: usize,
    /// Of a sample: key and place of each row, the largest key first.
    keys: BinaryHeap<(u64, usize)>,
}

/// [`Rows`] in a snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RowsState {
    len: usize,
    values: Vec<Floats>,
    codes: Vec<Vec<u32>>,
    keys: Vec<u64>,
}

/// Numbers that JSON can hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Floats(#[serde(with = "row_floats")] pub(in super::super) Vec<f64>);

impl RowsState {
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Rows {
    pub(super) fn new(numbers: usize, categories: usize) -> Self {
        Rows { values: vec![Vec::new(); numbers], codes: vec![Vec::new(); categories], ..Rows::default() }
    }

    pub(in super::super) fn len(&self) -> usize {
        self.len
    }

    /// How many rows at the front took part in the last test; the others are new.
    pub(in super::super) fn old(&self) -> usize {
        self.old
    }

    pub(in super::super) fn values(&self, column: usize) -> &[f64] {
        &self.values[column][self.gone..]
    }

    pub(in super::super) fn codes(&self, column: usize) -> &[u32] {
        &self.codes[column][self.gone..]
    }

    /// Adds rows of a chunk.
    pub(super) fn extend<S: Source>(&mut self, source: &S, chunk: &Chunk<'_>, rows: Range<usize>) {
        for (column, values) in self.values.iter_mut().enumerate() {
            values.extend_from_slice(&source.values(chunk, column)[rows.clone()]);
        }
        for (column, codes) in self.codes.iter_mut().enumerate() {
            codes.extend_from_slice(&source.codes(chunk, column)[rows.clone()]);
        }
        self.len += rows.len();
    }

    /// Offers rows of a chunk to a uniform sample of at most `capacity`: the rows with the smallest hash of their position in
    /// the stream.
    pub(super) fn sample<S: Source>(&mut self, source: &S, chunk: &Chunk<'_>, rows: Range<usize>, capacity: usize) {
        for row in rows {
            let key = keyed(SEED, &chunk.sequence()[row].to_le_bytes());
            if self.len < capacity {
                self.keys.push((key, self.len));
                self.extend(source, chunk, row..row + 1);
                continue;
            }
            let Some(mut largest) = self.keys.peek_mut() else { continue };
            if key >= largest.0 {
                continue;
            }
            largest.0 = key;
            let place = largest.1;
            drop(largest);
            for (column, values) in self.values.iter_mut().enumerate() {
                values[place] = source.values(chunk, column)[row];
            }
            for (column, codes) in self.codes.iter_mut().enumerate() {
                codes[place] = source.codes(chunk, column)[row];
            }
        }
    }

    /// Forgets the oldest rows after a test.
    pub(super) fn forget(&mut self, rows: usize) {
        self.keys.clear();
        self.len -= rows;
        (self.old, self.gone) = (self.len, self.gone + rows);
        // moving all others for each row would cost more than its tests
        if LATE * self.gone >= self.len {
            self.values.iter_mut().for_each(|values| drop(values.drain(..self.gone)));
            self.codes.iter_mut().for_each(|codes| drop(codes.drain(..self.gone)));
            self.gone = 0;
        }
    }

    pub(super) fn save(&self) -> RowsState {
        let mut keys = vec![0; self.keys.len()];
        self.keys.iter().for_each(|&(key, place)| keys[place] = key);
        let values = (0..self.values.len()).map(|column| Floats(self.values(column).to_vec())).collect();
        let codes = (0..self.codes.len()).map(|column| self.codes(column).to_vec()).collect();
        RowsState { len: self.len, values, codes, keys }
    }

    /// Takes over a saved state of the same columns; all rows count as new.
    pub(super) fn load(&mut self, state: RowsState, sampled: bool) -> Result<(), BoxError> {
        let uneven = state.values.iter().any(|values| values.0.len() != state.len)
            || state.codes.iter().any(|codes| codes.len() != state.len);
        if uneven || state.values.len() != self.values.len() || state.codes.len() != self.codes.len() {
            return Err(message("the columns of the saved window have different lengths"));
        }
        if state.keys.len() != if sampled { state.len } else { 0 } {
            return Err(message("the saved window is of another kind: of time, or of a number of observations"));
        }
        self.values = state.values.into_iter().map(|values| values.0).collect();
        self.codes = state.codes;
        self.keys = state.keys.into_iter().zip(0..).collect();
        (self.len, self.old, self.gone) = (state.len, 0, 0);
        Ok(())
    }
}
