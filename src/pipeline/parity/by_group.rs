//! Positions in groups: by where their text comes from, and by their place in the window.

use crate::data::Tokens;
use crate::report::{ContextPerplexity, Domain, PositionBucket};
use tamborim_kernels::parity::{Distance, Summary, perplexities, summarize};

/// Groups of fewer blocks of text say too little about how blocks differ to give an interval.
const FEWEST_BLOCKS: usize = 5;
/// Positions of the first bucket.
const FIRST_BUCKET: usize = 64;

/// Some of the positions, and the blocks they are in.
#[derive(Default, Clone)]
struct Group {
    distances: Vec<Distance>,
    blocks: Vec<u32>,
}

impl Group {
    fn push(&mut self, distance: &Distance, block: u32) {
        self.distances.push(*distance);
        self.blocks.push(block);
    }

    /// What they say together, and the interval of their mean divergence.
    fn summarize(&self) -> (Summary, Option<[f64; 2]>) {
        let summary = summarize(&self.distances, &self.blocks);
        let changes = self.blocks.windows(2).filter(|pair| pair[0] != pair[1]).count();
        (summary, (changes + 1 >= FEWEST_BLOCKS).then_some(summary.kld_uncertainty.interval))
    }
}

/// Positions of each domain that has any, in the order of the text.
pub fn by_domain(all: &[Distance], blocks: &[u32], tokens: &Tokens) -> Vec<Domain> {
    let mut groups = vec![Group::default(); tokens.domain_names.len()];
    for ((distance, block), domain) in all.iter().zip(blocks).zip(&tokens.domains[1..]) {
        groups[usize::from(*domain)].push(distance, *block);
    }
    let named = tokens.domain_names.iter().zip(groups).filter(|(_, group)| !group.distances.is_empty());
    named
        .map(|(name, group)| {
            let (s, kld_interval) = group.summarize();
            Domain {
                name: name.clone(),
                positions: group.distances.len(),
                kld_mean: s.kld.mean,
                kld_interval,
                top1_agreement: s.top1_agreement,
                perplexity_ratio: s.perplexity_ratio,
            }
        })
        .collect()
}

/// Buckets that double in size, below `longest`: whether error grows along the sequence shows over orders of magnitude.
fn buckets(longest: usize) -> Vec<[usize; 2]> {
    let mut edges = vec![[0, FIRST_BUCKET.min(longest)]];
    while let Some(&[_, to]) = edges.last()
        && to < longest
    {
        edges.push([to, longest.min(to * 2)]);
    }
    edges
}

/// Positions by their place in windows of `context`.
pub fn by_position(all: &[Distance], blocks: &[u32], context: usize) -> Vec<PositionBucket> {
    let buckets = buckets(context.min(all.len()));
    let mut groups = vec![Group::default(); buckets.len()];
    for (i, (distance, block)) in all.iter().zip(blocks).enumerate() {
        let bucket = buckets.partition_point(|[_, to]| *to <= i % context);
        groups[bucket].push(distance, *block);
    }
    let describe = |([from, to], group): ([usize; 2], Group)| {
        let (s, kld_interval) = group.summarize();
        PositionBucket { from, to, kld_mean: s.kld.mean, kld_interval, top1_agreement: s.top1_agreement }
    };
    buckets.into_iter().zip(groups).map(describe).collect()
}

/// What more context is worth to either model.
pub fn by_context(all: &[Distance], context: usize) -> Vec<ContextPerplexity> {
    let within = |tokens: usize| {
        let inside = all.iter().enumerate().filter(|(i, _)| i % context < tokens).map(|(_, distance)| distance);
        let [reference, candidate] = perplexities(inside);
        ContextPerplexity { tokens, reference, candidate }
    };
    buckets(context.min(all.len())).into_iter().map(|[_, to]| within(to)).collect()
}
