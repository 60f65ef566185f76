//! Guided predictions of a UNet, for as many images at once as memory holds.

use super::{
    conditions::{TextCondition, repeated, time_ids},
    denoise::{guide, values},
};
use crate::{
    error::EngineError,
    models::{Added, Conditions, Unet},
    runtime::Control,
    tensor::Tensor,
};

/// What all predictions of a request have in common, for one to `rows` images.
pub(super) struct Predictor<'m> {
    unet: &'m Unet,
    positive: Side,
    negative: Option<Side>,
    scale: f32,
    /// Images of one run.
    rows: usize,
    memory_bytes: Option<u64>,
}

/// Conditions with a row for each image of a run.
struct Side {
    states: Tensor,
    added: Option<(Tensor, Tensor)>,
}

impl Side {
    fn new(unet: &Unet, text: &TextCondition, size: (usize, usize), is_negative: bool) -> Result<Self, EngineError> {
        let pooled = text.pooled.data.len();
        let added = unet.config().added.map(|added| {
            let numbers = added.inputs.saturating_sub(pooled).checked_div(added.each).unwrap_or(0);
            Ok::<_, EngineError>((text.pooled.clone(), time_ids(numbers, size.0, size.1, is_negative)?))
        });
        Ok(Self { states: text.states.clone(), added: added.transpose()? })
    }

    fn rows(&self, rows: usize) -> Result<Self, EngineError> {
        let added = self.added.as_ref().map(|(text, ids)| Ok((repeated(text, rows)?, repeated(ids, rows)?)));
        Ok(Self { states: repeated(&self.states, rows)?, added: added.transpose()? })
    }

    fn conditions(&self) -> Conditions<'_> {
        let added = self.added.as_ref().map(|(text_embeds, time_ids)| Added { text_embeds, time_ids });
        Conditions { encoder_hidden_states: &self.states, added }
    }
}

impl<'m> Predictor<'m> {
    /// Predictions for latents of `shape`; `negative` is none without guidance; `size` is width and height in pixels.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] when not even one image fits.
    pub(super) fn new(
        unet: &'m Unet,
        texts: (&TextCondition, Option<&TextCondition>),
        scale: f32,
        (shape, size): ([usize; 4], (usize, usize)),
        memory_bytes: Option<u64>,
    ) -> Result<Self, EngineError> {
        let tokens = texts.0.states.shape.get(1).copied().unwrap_or_default();
        let rows = Self::rows_that_fit(unet, shape, tokens, memory_bytes)?;
        let positive = Side::new(unet, texts.0, size, false)?;
        let negative = texts.1.map(|text| Side::new(unet, text, size, true)).transpose()?;
        Ok(Self { unet, positive, negative, scale, rows, memory_bytes })
    }

    /// How many of the images of `shape` are predicted at once, with so many tokens of text.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`] when not even one image fits.
    pub(super) fn rows_that_fit(
        unet: &Unet,
        [batch, channels, height, width]: [usize; 4],
        tokens: usize,
        memory_bytes: Option<u64>,
    ) -> Result<usize, EngineError> {
        let needed = |rows: usize| unet.estimate(&[rows, channels, height, width], tokens);
        let bound = memory_bytes.unwrap_or(u64::MAX);
        let rows = (1..=batch.min(unet.most_rows())).rev().find(|rows| needed(*rows) <= bound);
        rows.ok_or_else(|| EngineError::OutOfMemory { needed_bytes: needed(1), available_bytes: bound })
    }

    /// The guided prediction for `sample`, image by image where memory asks for it.
    pub(super) fn predict(&self, sample: &Tensor, timestep: f32, control: &Control) -> Result<Tensor, EngineError> {
        let batch = sample.shape.first().copied().unwrap_or_default();
        if batch <= self.rows {
            return self.predict_rows(sample, timestep, batch, control);
        }
        let each = sample.data.len() / batch;
        let mut whole = Vec::with_capacity(sample.data.len());
        for part in values(sample)?.chunks(each * self.rows) {
            let mut shape = sample.shape.clone();
            let rows = part.len() / each.max(1);
            if let Some(first) = shape.first_mut() {
                *first = rows;
            }
            let part = Tensor::f32(&shape, part.to_vec())?;
            whole.extend_from_slice(values(&self.predict_rows(&part, timestep, rows, control)?)?);
        }
        Tensor::f32(&sample.shape, whole)
    }

    fn predict_rows(
        &self,
        sample: &Tensor,
        timestep: f32,
        rows: usize,
        control: &Control,
    ) -> Result<Tensor, EngineError> {
        let positive = self.positive.rows(rows)?;
        let Some(negative) = &self.negative else {
            return self.unet.predict(sample, timestep, &positive.conditions(), control);
        };
        let negative = negative.rows(rows)?;
        let sides = [&negative.conditions(), &positive.conditions()];
        let pair = self.unet.predict_pair(sample, timestep, sides, self.memory_bytes, control)?;
        guide(pair.unconditional, &pair.conditional, self.scale)
    }
}
