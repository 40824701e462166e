//! The namespaces that the index knows: the roots of its trees.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::store::index::answers::{NamespaceUse, Refusal};
use crate::store::index::nodes::NONE;
use crate::store::index::{Index, Removed};
use crate::store::types::{Layout, NamespaceKey};

/// The root of a tree, and what hangs on it.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) key: NamespaceKey,
    pub(super) label: String,
    pub(super) layout: Arc<Layout>,
    pub(super) first_child: u32,
    pub(super) blocks: u64,
    pub(super) snapshots: u64,
    pub(super) tokens: u64,
    pub(super) disk_bytes: u64,
    pub(super) last_used_ms: u64,
}

/// All roots, by place.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    places: Vec<Option<Namespace>>,
    by_key: BTreeMap<NamespaceKey, u32>,
}

impl Namespaces {
    pub(super) fn find(&self, key: &NamespaceKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, place: u32) -> Option<&Namespace> {
        self.places.get(place as usize).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Namespace> {
        self.places.get_mut(place as usize).and_then(Option::as_mut)
    }

    pub(super) fn key(&self, place: u32) -> Option<NamespaceKey> {
        self.get(place).map(|namespace| namespace.key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Namespace)> {
        self.by_key.values().filter_map(|place| self.get(*place).map(|namespace| (*place, namespace)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "a namespace has a layout in memory: far fewer than 2^31")]
    pub(super) fn add(&mut self, key: NamespaceKey, label: &str, layout: Layout) -> u32 {
        let namespace = Namespace {
            key,
            label: label.to_owned(),
            layout: Arc::new(layout),
            first_child: NONE,
            blocks: 0,
            snapshots: 0,
            tokens: 0,
            disk_bytes: 0,
            last_used_ms: 0,
        };
        let place = if let Some(place) = self.places.iter().position(Option::is_none) {
            self.places[place] = Some(namespace);
            place as u32
        } else {
            self.places.push(Some(namespace));
            self.places.len() as u32 - 1
        };
        self.by_key.insert(key, place);
        place
    }

    fn forget(&mut self, place: u32) -> Option<NamespaceKey> {
        let namespace = self.places.get_mut(place as usize)?.take()?;
        self.by_key.remove(&namespace.key);
        Some(namespace.key)
    }

    /// Whether the same model is stored under another identity.
    pub(super) fn label_has_another_key(&self, label: &str, key: &NamespaceKey) -> bool {
        self.iter().any(|(_, namespace)| namespace.label == label && namespace.key != *key)
    }
}

impl Index {
    /// Makes a namespace known. `Ok(true)`: it was not, or its label is another now, so it is to be journalled before its
    /// first record.
    ///
    /// # Errors
    /// [`Refusal::LayoutChanged`] if its blocks hold other arrays. A namespace without any record takes the new layout.
    pub fn open_namespace(&mut self, key: &NamespaceKey, label: &str, layout: &Layout) -> Result<bool, Refusal> {
        let Some(place) = self.namespaces.find(key) else {
            self.namespaces.add(*key, label, layout.clone());
            return Ok(true);
        };
        let Some(namespace) = self.namespaces.get_mut(place) else { return Err(Refusal::Stale) };
        let mut news = false;
        if *namespace.layout != *layout {
            if namespace.blocks > 0 {
                return Err(Refusal::LayoutChanged);
            }
            namespace.layout = Arc::new(layout.clone());
            news = true;
        }
        if namespace.label != label {
            label.clone_into(&mut namespace.label);
            news = true;
        }
        Ok(news)
    }

    /// What the blocks of a namespace hold.
    #[must_use]
    pub fn layout(&self, key: &NamespaceKey) -> Option<Arc<Layout>> {
        self.namespaces.get(self.namespaces.find(key)?).map(|namespace| Arc::clone(&namespace.layout))
    }

    /// What the blocks of each namespace of that label hold.
    #[must_use]
    pub fn layouts(&self, label: &str) -> Vec<(NamespaceKey, Arc<Layout>)> {
        let labelled = self.namespaces.iter().filter(|(_, namespace)| namespace.label == label);
        labelled.map(|(_, namespace)| (namespace.key, Arc::clone(&namespace.layout))).collect()
    }

    /// All namespaces with what they take.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceUse> {
        self.namespaces
            .iter()
            .map(|(_, namespace)| NamespaceUse {
                key: namespace.key,
                label: namespace.label.clone(),
                blocks: namespace.blocks,
                snapshots: namespace.snapshots,
                tokens: namespace.tokens,
                disk_bytes: namespace.disk_bytes,
                last_used_ms: namespace.last_used_ms,
            })
            .collect()
    }

    /// Removes all of a namespace, or of all. Pins go too. What is held leaves the tree now; its bytes count until released.
    pub fn purge(&mut self, key: Option<&NamespaceKey>) -> Removed {
        let places: Vec<u32> = match key {
            Some(key) => self.namespaces.find(key).into_iter().collect(),
            None => self.namespaces.iter().map(|(place, _)| place).collect(),
        };
        let mut removed = Removed::default();
        for place in places {
            while let Some(root) = self.namespaces.get(place).map(|namespace| namespace.first_child)
                && root != NONE
            {
                removed.append(self.remove_subtree(root, false));
            }
        }
        removed
    }

    /// Forgets the namespaces that hold nothing. Call it before [`Index::dump`], or their number only grows.
    pub fn forget_empty_namespaces(&mut self) -> Vec<NamespaceKey> {
        let empty: Vec<u32> =
            self.namespaces.iter().filter(|(_, namespace)| namespace.blocks == 0).map(|(place, _)| place).collect();
        empty.into_iter().filter_map(|place| self.namespaces.forget(place)).collect()
    }
}
