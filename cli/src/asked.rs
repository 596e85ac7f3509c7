//! Shapes as the command line writes them: `8x5x5x3`, and after colons what else there is to say of their tensors, such as
//! `8x5x5x3:channels_last:f16:x=64/256`.

use crate::names::{dtype, layout};
use batchnorm_wgpu::{DType, Error, Layout, Shape, View, Views};

/// What a text asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedShape {
    /// What stands before the first colon.
    pub text: String,
    /// Its layout, where it says one.
    pub layout: Option<Layout>,
    /// The types of its tensors; none where it says none.
    pub dtypes: Vec<DType>,
    /// Which tensors are channels of wider ones.
    pub views: Views,
}

impl AskedShape {
    /// Reads a text.
    ///
    /// # Errors
    /// A word after a colon that means nothing, or that stands twice.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split(':');
        let name = words.next().unwrap_or_default().into();
        let mut asked = Self { text: name, layout: None, dtypes: Vec::new(), views: Views::default() };
        words.try_for_each(|word| asked.add(word))?;
        Ok(asked)
    }

    fn add(&mut self, word: &str) -> Result<(), String> {
        let expected = "channels_first, channels_last, f32, f16, bf16 or a view such as x=64/256 after a colon";
        match (dtype(word), layout(word), word.split_once('=')) {
            (Ok(dtype), ..) if self.dtypes.contains(&dtype) => Err(format!("{word} stands twice")),
            (Ok(dtype), ..) => {
                self.dtypes.push(dtype);
                Ok(())
            }
            (_, Ok(_), _) if self.layout.is_some() => Err("expected one layout".into()),
            (_, Ok(layout), _) => {
                self.layout = Some(layout);
                Ok(())
            }
            (.., Some((name, channels))) => self.add_view(name, channels),
            _ => Err(format!("expected {expected}, got {word:?}")),
        }
    }

    /// A view, such as `x` and `64/256`.
    fn add_view(&mut self, name: &str, channels: &str) -> Result<(), String> {
        let view = match name {
            "x" => &mut self.views.x,
            "y" => &mut self.views.y,
            "residual" => &mut self.views.residual,
            _ => return Err(format!("expected a view of x, y or residual, such as x=64/256, got {name:?}")),
        };
        let numbers = channels.split_once('/').and_then(|(first, of)| Some((first.parse().ok()?, of.parse().ok()?)));
        let Some((first, of)) = numbers else {
            return Err(format!(
                "expected the first channel and the channels of the wider tensor, such as {name}=64/256, got {channels:?}"
            ));
        };
        match view.replace(View { first, of }) {
            None => Ok(()),
            Some(_) => Err(format!("expected one view of {name}")),
        }
    }

    /// The dimensions, where the text writes them out.
    pub fn dims(&self) -> Option<Vec<usize>> {
        self.text.split('x').map(|dim| dim.parse().ok()).collect()
    }

    /// The shape of these dimensions.
    ///
    /// # Errors
    /// As [`Shape::new`] and [`Shape::with_views`].
    pub fn shape(&self, dims: &[usize], layout: Layout) -> Result<Shape, Error> {
        Shape::new(dims, layout)?.with_views(self.views)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_layout_types_and_views() {
        let asked = AskedShape::parse("8x5x5x3:f16:channels_last:y=0/3:bf16:x=4/9").unwrap();
        assert_eq!((asked.dims(), asked.layout), (Some(vec![8, 5, 5, 3]), Some(Layout::ChannelsLast)));
        assert_eq!(asked.dtypes, [DType::F16, DType::Bf16]);
        let shape = asked.shape(&[8, 5, 5, 3], Layout::ChannelsLast).unwrap();
        assert_eq!(shape.to_string(), "8x5x5x3 channels_last x=4/9 y=0/3");
        assert_eq!(AskedShape::parse("first").unwrap().dims(), None);
        for (text, said) in [
            ("8x3:f64", "f32, f16, bf16 or a view such as x=64/256 after a colon, got \"f64\""),
            ("8x3:f16:f16", "f16 stands twice"),
            ("8x3:channels_last:channels_first", "one layout"),
            ("8x3:z=0/4", "a view of x, y or residual, such as x=64/256, got \"z\""),
            ("8x3:x=4", "such as x=64/256, got \"4\""),
            ("8x3:y=-1/4", "such as y=64/256, got \"-1/4\""),
            ("8x3:x=0/4:x=1/4", "one view of x"),
        ] {
            let found = AskedShape::parse(text);
            assert!(found.as_ref().is_err_and(|error| error.contains(said)), "{text}: {found:?}");
        }
    }
}
