//! A tensor's dimensions, reduced to what batch norm sees: (outer, channels, inner).

use crate::error::{Error, Result};
use std::fmt;

/// Which dimension counts the channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// (N, C, ...), PyTorch's default: NC, NCL, NCHW, NCDHW.
    #[default]
    ChannelsFirst,
    /// (N, ..., C), TensorFlow's default: NC, NLC, NHWC, NDHWC.
    ChannelsLast,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::ChannelsFirst => "channels_first",
            Layout::ChannelsLast => "channels_last",
        })
    }
}

/// A tensor that is some of the channels of a wider one: channels `first..first + C` of `of`, as where DenseNet concatenates what
/// its layers compute in one buffer. Its binding is the wider tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The first of its channels.
    pub first: usize,
    /// How many channels the wider tensor has.
    pub of: usize,
}

/// Which tensors of a layer are views; `None` for those that are whole tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Views {
    /// x, and its gradient dx.
    pub x: Option<View>,
    /// y, and its gradient dy.
    pub y: Option<View>,
    /// The residual and its gradient.
    pub residual: Option<View>,
}

impl Views {
    /// Each with its name.
    fn all(&self) -> [(&'static str, Option<View>); 3] {
        [("x", self.x), ("y", self.y), ("residual", self.residual)]
    }

    /// That of a binding by its name in the table of kernels.
    pub(crate) fn view_of(&self, name: &str) -> Option<View> {
        match name {
            "x" | "dx" => self.x,
            "y" | "dy" => self.y,
            "residual" | "dresidual" => self.residual,
            _ => None,
        }
    }
}

/// A checked tensor shape: rank 2 or more, no zero dimension, products that do not overflow.
///
/// Element `(o, c, i)` of the reduced shape lies at index `(o * channels + c) * inner + i`. Channels last is the case
/// `inner == 1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: Vec<usize>,
    layout: Layout,
    outer: usize,
    channels: usize,
    inner: usize,
    views: Views,
    /// Samples of each micro-batch but the last, where the batch lies in several.
    micro_batch: Option<usize>,
}

impl Shape {
    /// Checks `dims` and reduces them.
    ///
    /// # Errors
    /// [`Error::Rank`] below rank 2, [`Error::ZeroChannels`], [`Error::EmptyBatch`] when another dimension is zero,
    /// [`Error::ShapeOverflow`] when four times the number of elements does not fit a `usize`.
    ///
    /// ```
    /// use batchnorm_wgpu::{Layout, Shape};
    /// let nchw = Shape::new(&[32, 64, 28, 28], Layout::ChannelsFirst)?;
    /// assert_eq!((nchw.outer(), nchw.channels(), nchw.inner()), (32, 64, 784));
    /// let nhwc = Shape::new(&[32, 28, 28, 64], Layout::ChannelsLast)?;
    /// assert_eq!((nhwc.outer(), nhwc.channels(), nhwc.inner()), (25088, 64, 1));
    /// # Ok::<(), batchnorm_wgpu::Error>(())
    /// ```
    pub fn new(dims: &[usize], layout: Layout) -> Result<Self> {
        if dims.len() < 2 {
            return Err(Error::Rank { dims: dims.to_vec() });
        }
        let (channel_axis, outer_axes, inner_axes) = match layout {
            Layout::ChannelsFirst => (1, 0..1, 2..dims.len()),
            Layout::ChannelsLast => (dims.len() - 1, 0..dims.len() - 1, 0..0),
        };
        if dims[channel_axis] == 0 {
            return Err(Error::ZeroChannels { dims: dims.to_vec(), layout });
        }
        if dims.contains(&0) {
            return Err(Error::EmptyBatch { dims: dims.to_vec() });
        }
        // The byte count of f32 must fit too; it bounds every product taken later.
        dims.iter()
            .try_fold(4usize, |product, &dim| product.checked_mul(dim))
            .ok_or_else(|| Error::ShapeOverflow { dims: dims.to_vec() })?;
        Ok(Self {
            outer: dims[outer_axes].iter().product(),
            channels: dims[channel_axis],
            inner: dims[inner_axes].iter().product(),
            dims: dims.to_vec(),
            layout,
            views: Views::default(),
            micro_batch: None,
        })
    }

    /// The same shape, where some of a layer's tensors are views of wider ones.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a view that reaches beyond the wider tensor; [`Error::ShapeOverflow`] when four times the number of
    /// that one's elements does not fit a `usize`.
    ///
    /// ```
    /// use batchnorm_wgpu::{Layout, Shape, View, Views};
    /// // The first 96 of 256 channels: what the layers before have appended to x.
    /// let x = Some(View { first: 0, of: 256 });
    /// let shape = Shape::new(&[32, 96, 28, 28], Layout::ChannelsFirst)?.with_views(Views { x, ..Views::default() })?;
    /// assert_eq!(shape.elements(), 32 * 96 * 28 * 28);
    /// # Ok::<(), batchnorm_wgpu::Error>(())
    /// ```
    pub fn with_views(self, views: Views) -> Result<Self> {
        for (name, View { first, of }) in views.all().into_iter().filter_map(|(name, view)| Some((name, view?))) {
            if first.checked_add(self.channels).is_none_or(|end| end > of) {
                let expected = format!("a view of {} channels within those of the wider tensor", self.channels);
                let actual = format!("channels from {first} on of {of}");
                return Err(Error::Mismatch { name, expected, actual });
            }
            let bytes = [self.outer, of, self.inner].into_iter().try_fold(4usize, usize::checked_mul);
            bytes.ok_or_else(|| Error::ShapeOverflow { dims: vec![self.outer, of, self.inner] })?;
        }
        Ok(Self { views, ..self })
    }

    /// Which of a layer's tensors are views of wider ones.
    pub fn views(&self) -> Views {
        self.views
    }

    /// Whether any is.
    pub(crate) fn has_views(&self) -> bool {
        self.views != Views::default()
    }

    /// The same shape, of which `samples` at a time lie in tensors of their own.
    pub(crate) fn in_micro_batches(self, samples: usize) -> Result<Self> {
        let n = self.dims.first().copied().unwrap_or_default();
        if samples == 0 || samples >= n {
            let expected =
                format!("samples of a micro-batch between 1 and {}, one less than the batch has", n.saturating_sub(1));
            return Err(Error::Mismatch { name: "micro-batch", expected, actual: samples.to_string() });
        }
        Ok(Self { micro_batch: Some(samples), ..self })
    }

    /// Slices of each micro-batch but the last, which may have fewer; `None` where the batch lies in one tensor.
    pub(crate) fn slices_per_micro_batch(&self) -> Option<usize> {
        let n = self.dims.first().copied().filter(|&n| n > 0)?;
        self.micro_batch.map(|samples| self.outer / n * samples)
    }

    /// Whether every view begins at a multiple of `count` channels, in a tensor of such a multiple.
    pub(crate) fn views_are_multiples_of(&self, count: usize) -> bool {
        let mut views = self.views.all().into_iter().filter_map(|(_, view)| view);
        views.all(|View { first, of }| first.is_multiple_of(count) && of.is_multiple_of(count))
    }

    /// Elements from a slice of a tensor to the next: C * inner, but of a view those of the wider tensor.
    pub(crate) fn slice_length(&self, view: Option<View>) -> usize {
        view.map_or(self.channels, |view| view.of) * self.inner
    }

    /// The longest of these among the tensors of a layer.
    pub(crate) fn widest_slice(&self) -> usize {
        let slices = self.views.all().into_iter().map(|(_, view)| self.slice_length(view));
        slices.max().unwrap_or_default()
    }

    /// The same shape with `n` samples: N, the first dimension in both layouts.
    ///
    /// # Errors
    /// As [`Shape::new`].
    ///
    /// ```
    /// use batchnorm_wgpu::{Layout, Shape};
    /// let training = Shape::new(&[32, 64, 28, 28], Layout::ChannelsFirst)?;
    /// assert_eq!(training.with_batch(1)?.dims(), [1, 64, 28, 28]);
    /// # Ok::<(), batchnorm_wgpu::Error>(())
    /// ```
    pub fn with_batch(&self, n: usize) -> Result<Self> {
        let others = self.dims.iter().skip(1).copied();
        Self::new(&std::iter::once(n).chain(others).collect::<Vec<_>>(), self.layout)?.with_views(self.views)
    }

    /// The dimensions as given.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The layout as given.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// (outer, channels, inner): all that batch norm sees.
    pub(crate) fn reduced(&self) -> [usize; 3] {
        [self.outer, self.channels, self.inner]
    }

    /// Number of slices before the channel dimension: N, or the product of all but the last dimension.
    pub fn outer(&self) -> usize {
        self.outer
    }

    /// Number of channels, C.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Number of neighbouring elements of one channel: H*W channels first, 1 channels last.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// m, the number of elements that each channel's statistics are taken over.
    pub fn elements_per_channel(&self) -> usize {
        self.outer * self.inner
    }

    /// Refuses a shape with one value per channel, whose variance is always 0: training needs more.
    ///
    /// # Errors
    /// [`Error::OneValuePerChannel`].
    pub fn check_trainable(&self) -> Result<()> {
        match self.elements_per_channel() {
            1 => Err(Error::OneValuePerChannel { dims: self.dims.clone() }),
            _ => Ok(()),
        }
    }

    /// Number of elements of the tensor.
    pub fn elements(&self) -> usize {
        self.outer * self.channels * self.inner
    }

    /// Index of element `i` of channel `channel`, for `i` below [`Shape::elements_per_channel`].
    pub fn index(&self, channel: usize, i: usize) -> usize {
        (i / self.inner * self.channels + channel) * self.inner + i % self.inner
    }
}

impl fmt::Display for Shape {
    /// Dimensions and layout, such as `32x64x28x28 channels_first`; and views, such as `x=0/256`; and
    /// micro-batches, such as `by 16`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, dim) in self.dims.iter().enumerate() {
            write!(f, "{}{dim}", if position == 0 { "" } else { "x" })?;
        }
        write!(f, " {}", self.layout)?;
        for (name, View { first, of }) in self.views.all().into_iter().filter_map(|(name, view)| Some((name, view?))) {
            write!(f, " {name}={first}/{of}")?;
        }
        self.micro_batch.map_or(Ok(()), |samples| write!(f, " by {samples}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduces_every_rank_and_layout() {
        let reduce = |dims: &[usize], layout| {
            let shape = Shape::new(dims, layout).unwrap();
            (shape.outer(), shape.channels(), shape.inner())
        };
        assert_eq!(reduce(&[7, 3], Layout::ChannelsFirst), (7, 3, 1));
        assert_eq!(reduce(&[7, 3], Layout::ChannelsLast), (7, 3, 1));
        assert_eq!(reduce(&[2, 3, 4, 5, 6, 7], Layout::ChannelsFirst), (2, 3, 840));
        assert_eq!(reduce(&[2, 3, 4, 5, 6, 7], Layout::ChannelsLast), (720, 7, 1));
    }

    #[test]
    fn counts_and_finds_elements() {
        let shape = Shape::new(&[2, 3, 4, 5], Layout::ChannelsLast).unwrap();
        assert_eq!((shape.dims(), shape.layout()), ([2, 3, 4, 5].as_slice(), Layout::ChannelsLast));
        assert_eq!((shape.elements(), shape.elements_per_channel(), shape.index(2, 7)), (120, 24, 37));
        let shape = Shape::new(&[2, 3, 4, 5], Layout::ChannelsFirst).unwrap();
        assert_eq!((shape.elements(), shape.elements_per_channel(), shape.index(2, 27)), (120, 40, 107));
    }

    #[test]
    fn says_dimensions_and_layout() {
        let said = |layout| Shape::new(&[32, 64, 28, 28], layout).unwrap().to_string();
        assert_eq!(said(Layout::ChannelsFirst), "32x64x28x28 channels_first");
        assert_eq!(said(Layout::ChannelsLast), "32x64x28x28 channels_last");
    }

    #[test]
    fn refuses_what_has_no_statistics() {
        let refuse = |dims: &[usize], layout| Shape::new(dims, layout).unwrap_err();
        assert!(matches!(refuse(&[3], Layout::ChannelsFirst), Error::Rank { .. }));
        assert!(matches!(refuse(&[3, 0], Layout::ChannelsFirst), Error::ZeroChannels { .. }));
        assert!(matches!(refuse(&[3, 2, 0], Layout::ChannelsLast), Error::ZeroChannels { .. }));
        assert!(matches!(refuse(&[0, 2], Layout::ChannelsFirst), Error::EmptyBatch { .. }));
        assert!(matches!(refuse(&[1, 2, 0], Layout::ChannelsFirst), Error::EmptyBatch { .. }));
        let huge = usize::MAX / 8;
        assert!(matches!(refuse(&[huge, 3], Layout::ChannelsFirst), Error::ShapeOverflow { .. }));
    }

    #[test]
    fn one_value_per_channel_is_not_trainable() {
        let trainable = |dims: &[usize]| Shape::new(dims, Layout::ChannelsFirst).unwrap().check_trainable();
        assert!(trainable(&[2, 3]).is_ok() && trainable(&[1, 3, 2]).is_ok());
        assert!(matches!(trainable(&[1, 3, 1]), Err(Error::OneValuePerChannel { dims }) if dims == [1, 3, 1]));
    }

    #[test]
    fn views_lie_within_their_tensor() {
        let shape = Shape::new(&[2, 6, 3], Layout::ChannelsFirst).unwrap();
        let x = |first, of| Views { x: Some(View { first, of }), ..Views::default() };
        let viewed = shape.clone().with_views(x(4, 10)).unwrap();
        assert_eq!((viewed.to_string(), viewed.elements()), ("2x6x3 channels_first x=4/10".into(), 36));
        assert_eq!((viewed.widest_slice(), viewed.slice_length(None), shape.widest_slice()), (30, 18, 18));
        assert_eq!(viewed.with_batch(5).unwrap().views(), viewed.views());
        assert!(viewed.has_views() && !shape.has_views() && viewed != shape);
        for (first, of) in [(5, 10), (0, 5), (usize::MAX, 10), (0, 0)] {
            let refused = shape.clone().with_views(x(first, of));
            assert!(matches!(refused, Err(Error::Mismatch { name: "x", .. })), "{first} {of}: {refused:?}");
        }
        let refused = shape.with_views(x(0, usize::MAX / 8));
        assert!(matches!(refused, Err(Error::ShapeOverflow { .. })), "{refused:?}");
    }
}
