//! A lineage as text, as DOT, and as JSON.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::super::opinions::annotator_name;
use super::super::retraining::PromotionKind;
use super::walk::{batch_id, model_id, run_id, sample_id};
use super::{Lineage, LineageLink, LineageNode};

impl LineageNode {
    /// A name that no other node has.
    pub fn id(&self) -> String {
        match self {
            LineageNode::Sample(sample) => sample_id(sample.id()),
            LineageNode::Annotation(annotation, at) => format!("annotation/{}/{at}", annotation.sample),
            LineageNode::Batch(batch) => batch_id(&batch.batch),
            LineageNode::Run(run) => run_id(run.id),
            LineageNode::Evaluation(found) => format!("evaluation/{}", found.run),
            LineageNode::Model(model) => model_id(model.version),
            LineageNode::Promotion(change) => format!("promotion/{}", change.number),
        }
    }

    /// What it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            LineageNode::Sample(_) => "sample",
            LineageNode::Annotation(..) => "annotation",
            LineageNode::Batch(_) => "batch",
            LineageNode::Run(_) => "run",
            LineageNode::Evaluation(..) => "evaluation",
            LineageNode::Model(_) => "model",
            LineageNode::Promotion(_) => "promotion",
        }
    }
}

/// In one line.
impl fmt::Display for LineageNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineageNode::Sample(sample) => {
                let (id, state, model) = (sample.id(), sample.state.as_str(), sample.observation.model);
                write!(f, "sample {id} ({state}), served by {model}")?;
                if let Some(erasure) = &sample.erased {
                    write!(f, ", erased by {} at {}", erasure.by, erasure.time)?;
                }
                for flag in &sample.flags {
                    write!(f, "; flagged by {}: {:.4} against {:.4}", flag.detector, flag.score, flag.threshold)?;
                }
                Ok(())
            }
            LineageNode::Annotation(annotation, _) => {
                let who = annotator_name(&annotation.annotator);
                match annotation.label {
                    Some(label) => write!(f, "{who} said {label:?} at {}", annotation.time),
                    None => write!(f, "{who} took back what they said at {}", annotation.time),
                }
            }
            LineageNode::Batch(batch) => write!(f, "batch {} of {} rows", batch.batch, batch.rows),
            LineageNode::Run(run) => write!(f, "{} ({}): {}", run.id, run.state.as_str(), run.why),
            LineageNode::Evaluation(found) => {
                let verdict = found.verdict.map_or("no verdict yet", |verdict| verdict.as_str());
                write!(f, "evaluation of {} against {}: {verdict}", found.candidate, found.champion)
            }
            LineageNode::Model(model) => {
                let recipe = model.recipe.map_or("first model", |recipe| recipe.as_str());
                write!(f, "model {} ({recipe})", model.version)?;
                if let Some(reason) = &model.quarantined {
                    write!(f, ", quarantined: {reason}")?;
                }
                Ok(())
            }
            LineageNode::Promotion(change) => {
                let kind = match change.kind {
                    PromotionKind::Promotion => "promotion",
                    PromotionKind::Rollback => "rollback",
                };
                write!(f, "{kind} {} -> {}: {}", change.from, change.to, change.reason)
            }
        }
    }
}

impl LineageLink {
    /// The name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            LineageLink::Served => "served",
            LineageLink::Labels => "labels",
            LineageLink::SealedIn => "sealed_in",
            LineageLink::CorrectedIn => "corrected_in",
            LineageLink::ComesBefore => "comes_before",
            LineageLink::SealedFor => "sealed_for",
            LineageLink::BaseOf => "base_of",
            LineageLink::Trained => "trained",
            LineageLink::InTrainingOf => "in_training_of",
            LineageLink::EvaluatedBy => "evaluated_by",
            LineageLink::LedTo => "led_to",
            LineageLink::GaveWay => "gave_way",
            LineageLink::BroughtUp => "brought_up",
        }
    }
}

impl Lineage {
    /// The graph in the language of graphviz: `dot -Tsvg`.
    pub fn to_dot(&self) -> String {
        let mut text = String::from("digraph lineage {\n  rankdir=LR;\n  node [shape=box];\n");
        for (at, node) in self.nodes.iter().enumerate() {
            text += &format!("  n{at} [label=\"{}\"];\n", escaped(&node.to_string()));
        }
        for edge in &self.edges {
            text += &format!("  n{} -> n{} [label=\"{}\"];\n", edge.from, edge.to, edge.link.as_str());
        }
        if self.truncated {
            text += "  truncated [shape=plaintext, label=\"truncated: there is more\"];\n";
        }
        text + "}\n"
    }
}

/// A text between quotes of DOT, where a backslash begins an escape of the label too.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => escaped += "\\\"",
            '\\' => escaped += "\\\\",
            '\n' => escaped += "\\n",
            '\0' | '\r' => {}
            other => escaped.push(other),
        }
    }
    escaped
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            let indent = if matches!(node, LineageNode::Annotation(..)) { "  " } else { "" };
            writeln!(f, "{indent}{node}")?;
        }
        if self.truncated {
            writeln!(f, "(truncated after {} nodes: there is more)", self.nodes.len())?;
        }
        Ok(())
    }
}

impl Serialize for Lineage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Edge {
            from: String,
            to: String,
            link: LineageLink,
        }
        let name = |at: usize| self.nodes.get(at).map(LineageNode::id).unwrap_or_default();
        let edges = self.edges.iter().map(|edge| Edge { from: name(edge.from), to: name(edge.to), link: edge.link });
        let mut fields = serializer.serialize_struct("Lineage", 3)?;
        fields.serialize_field("nodes", &self.nodes)?;
        fields.serialize_field("edges", &edges.collect::<Vec<_>>())?;
        fields.serialize_field("truncated", &self.truncated)?;
        fields.end()
    }
}

impl Serialize for LineageNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("LineageNode", 3)?;
        fields.serialize_field("id", &self.id())?;
        fields.serialize_field("kind", self.kind())?;
        match self {
            LineageNode::Sample(sample) => fields.serialize_field("record", sample)?,
            LineageNode::Annotation(annotation, _) => fields.serialize_field("record", annotation)?,
            LineageNode::Batch(batch) => fields.serialize_field("record", batch)?,
            LineageNode::Run(run) => fields.serialize_field("record", run)?,
            LineageNode::Evaluation(found) => fields.serialize_field("record", found)?,
            LineageNode::Model(model) => fields.serialize_field("record", model)?,
            LineageNode::Promotion(change) => fields.serialize_field("record", change)?,
        }
        fields.end()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::event::ModelVersion;
    use crate::sample::Reason;

    /// The labels of a DOT text, read as graphviz reads them; panics where it would see a syntax error.
    fn labels(dot: &str) -> Vec<String> {
        let (mut labels, mut rest) = (Vec::new(), dot);
        while let Some(at) = rest.find('"') {
            let (mut label, mut characters) = (String::new(), rest[at + 1..].char_indices());
            let end = loop {
                match characters.next().expect("a quote is not closed") {
                    (end, '"') => break end,
                    (_, '\\') => match characters.next().expect("an escape is cut off").1 {
                        'n' => label.push('\n'),
                        other => label.push(other),
                    },
                    (_, other) => label.push(other),
                }
            };
            labels.push(label);
            rest = &rest[at + 1 + end + 1..];
        }
        labels
    }

    #[test]
    fn dot_says_what_people_wrote_whatever_that_is() {
        for words in ["plain", "\"quoted\"", r"C:\new\", "two\nlines", r#"\"; evil -> node [label=""#, "<b>é</b>{|}"] {
            let record = super::super::PromotionRecord {
                number: 1,
                kind: PromotionKind::Rollback,
                from: ModelVersion(2),
                to: ModelVersion(1),
                run: None,
                time: chrono::DateTime::UNIX_EPOCH,
                reason: Reason::new("manual", words),
            };
            let nodes = vec![LineageNode::Promotion(Box::new(record))];
            let dot = Lineage { nodes, edges: Vec::new(), truncated: true }.to_dot();
            let expected = [format!("rollback v2 -> v1: manual: {words}"), "truncated: there is more".to_owned()];
            assert_eq!(labels(&dot), expected, "{dot}");
        }
    }
}
