//! Batches of planes on the host: cutting tiles out, joining batches.

use crate::{error::EngineError, tensor::Tensor};

/// [batch, channels, height, width] of 32-bit floats.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planes {
    pub(super) batch: usize,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) data: Vec<f32>,
}

impl Planes {
    pub(super) fn zeros(batch: usize, channels: usize, height: usize, width: usize) -> Self {
        let count = [channels, height, width].into_iter().fold(batch, usize::saturating_mul);
        Self { batch, channels, height, width, data: vec![0.0; count] }
    }

    /// A copy of a tensor of floats with four sides.
    pub(super) fn of(tensor: &Tensor, name: &str) -> Result<Self, EngineError> {
        let (&[batch, channels, height, width], Some(data)) = (tensor.shape.as_slice(), tensor.to_f32()) else {
            return Err(EngineError::Input {
                name: name.to_owned(),
                found: format!("{} {:?}", tensor.data.element(), tensor.shape),
                expected: "floats [batch, channels, height, width]".to_owned(),
            });
        };
        Ok(Self { batch, channels, height, width, data })
    }

    pub(super) fn into_tensor(self) -> Result<Tensor, EngineError> {
        Tensor::f32(&self.shape(), self.data)
    }

    pub(super) fn shape(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height, self.width]
    }

    pub(super) fn map(&mut self, change: impl Fn(f32) -> f32) {
        self.data.iter_mut().for_each(|value| *value = change(*value));
    }

    /// Each image of the batch.
    pub(super) fn slices(self) -> Vec<Self> {
        let size = self.data.len().checked_div(self.batch).unwrap_or(0).max(1);
        let Self { channels, height, width, .. } = self;
        self.data.chunks(size).map(|data| Self { batch: 1, channels, height, width, data: data.to_vec() }).collect()
    }

    /// This batch with another one behind it.
    pub(super) fn followed_by(mut self, next: Self) -> Result<Self, EngineError> {
        if (self.channels, self.height, self.width) != (next.channels, next.height, next.width) {
            return Err(EngineError::Input {
                name: "batch".to_owned(),
                found: format!("{:?}", next.shape()),
                expected: format!("{:?}", self.shape()),
            });
        }
        self.batch += next.batch;
        self.data.extend(next.data);
        Ok(self)
    }

    /// `count` channels from `first` on.
    pub(super) fn channel_range(&self, first: usize, count: usize) -> Self {
        let area = self.height.saturating_mul(self.width);
        let image = self.channels.saturating_mul(area).max(1);
        let range = first.saturating_mul(area)..first.saturating_add(count).saturating_mul(area);
        let data = self.data.chunks(image).flat_map(|image| image.get(range.clone()).unwrap_or_default()).copied();
        Self { batch: self.batch, channels: count, height: self.height, width: self.width, data: data.collect() }
    }

    /// Rows `top..top + height` and columns `left..left + width`, as far as there are any.
    pub(super) fn crop(&self, (top, left): (usize, usize), (height, width): (usize, usize)) -> Self {
        let (bottom, right) = ((top + height).min(self.height), (left + width).min(self.width));
        let (height, width) = (bottom.saturating_sub(top), right.saturating_sub(left));
        let mut data = Vec::with_capacity(self.batch * self.channels * height * width);
        for plane in self.data.chunks(self.height.saturating_mul(self.width).max(1)) {
            for row in plane.chunks(self.width.max(1)).skip(top).take(height) {
                data.extend_from_slice(row.get(left..right).unwrap_or_default());
            }
        }
        Self { batch: self.batch, channels: self.channels, height, width, data }
    }

    /// The row of this number in this plane.
    pub(super) fn row(&self, plane: usize, row: usize) -> &[f32] {
        let begin = (plane * self.height + row) * self.width;
        self.data.get(begin..begin + self.width).unwrap_or_default()
    }
}
