//! The DNS label before the domain, and the workspace and port that it names.

use std::fmt;
use std::str::FromStr;

use super::issue::Invalid;
use super::name::Name;

/// Names a workspace: a user's `main`, or one of their projects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId {
    /// The user to whom it belongs.
    pub owner: Name,
    /// The project; `None` for the declared `main`.
    pub project: Option<Name>,
}

impl WorkspaceId {
    /// The owner's declared workspace.
    pub fn main(owner: Name) -> Self {
        Self { owner, project: None }
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(project) = &self.project {
            write!(f, "{project}--")?;
        }
        write!(f, "{}", self.owner)
    }
}

impl FromStr for WorkspaceId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once("--") {
            None => Ok(Self::main(text.parse()?)),
            Some((project, owner)) => Ok(Self { owner: owner.parse()?, project: Some(project.parse()?) }),
        }
    }
}

impl<'de> serde::Deserialize<'de> for WorkspaceId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for WorkspaceId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The label in a hostname: `dan`, `api--dan` (project `api`), `3000--dan` (port 3000 of `main`) or `3000--api--dan`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    /// A port inside the workspace; `None` for the editor.
    pub port: Option<u16>,
    /// The workspace.
    pub workspace: WorkspaceId,
}

impl Label {
    /// The label of a workspace's editor.
    pub fn editor(workspace: WorkspaceId) -> Self {
        Self { port: None, workspace }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = self.port {
            write!(f, "{port}--")?;
        }
        write!(f, "{}", self.workspace)
    }
}

impl FromStr for Label {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = text.split_once("--").filter(|(first, _)| first.starts_with(|c: char| c.is_ascii_digit()));
        let Some((port, rest)) = port else {
            return Ok(Self::editor(text.parse()?));
        };
        // A sign or leading zeros are refused: a second spelling of the same port would be a second origin.
        let number = port.parse::<u16>().ok().filter(|n| *n > 0 && n.to_string() == port);
        let number =
            number.ok_or_else(|| Invalid::new("not a port", "write a number from 1 to 65535 before \"--\""))?;
        Ok(Self { port: Some(number), workspace: rest.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_parse_to_port_project_and_owner() {
        for text in ["dan", "api--dan", "3000--dan", "3000--api--dan", "1--a", "65535--x-y--dan"] {
            assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
        }
        let label: Label = "3000--api--dan".parse().unwrap();
        assert_eq!(label.port, Some(3000));
        assert_eq!(label.workspace.project.unwrap().as_str(), "api");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "--dan",
            "dan--",
            "0--dan",
            "03000--dan",
            "+3000--dan",
            "65536--dan",
            "3000--",
            "a--b--c",
            "3000--a--b--c",
            "3000-dan",
            "Dan",
            "dan.",
            "3000--3000--dan",
            "api---dan",
        ] {
            assert!(text.parse::<Label>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_parsed_label_prints_its_input(text in "[a-z0-9-]{0,40}") {
            if let Ok(label) = text.parse::<Label>() {
                prop_assert_eq!(label.to_string(), text);
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Label>();
        }
    }
}
