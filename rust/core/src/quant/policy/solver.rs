//! The multiple-choice knapsack: one choice for each part, the least loss in all, within a budget of bytes. Knows nothing of
//! formats.
//!
//! Exact where it can be and quick always: the linear relaxation gives a first solution and a bound (Sinha and Zoltners,
//! 1979); choices that the bound rules out go (Pisinger, 1995); dynamic programming over the bytes decides between the few
//! that are left. Sizes of formats have a large common divisor, so that these bytes are few. Where they are not, they are
//! rounded up to fewer, and the result is no longer sure to be the best: then it is the best of that, the first solution and
//! the starts, improved choice by choice.

/// Most steps of bytes that dynamic programming distinguishes.
const STEPS_AT_MOST: u64 = 1 << 14;

/// One way to have a part.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Choice {
    /// What it takes.
    pub(super) bytes: u64,
    /// What it costs in quality: 0 or above.
    pub(super) loss: f64,
}

/// The budget is below this, the fewest bytes that any choices take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooSmall(pub(super) u64);

/// The index of the choice for each part, in one order for equal inputs. Each part needs a choice. It is never worse than
/// one of `starts` that fits.
pub(super) fn solve(parts: &[Vec<Choice>], budget: u64, starts: &[Vec<usize>]) -> Result<Vec<usize>, TooSmall> {
    let useful: Vec<Vec<usize>> = parts.iter().map(|choices| undominated(choices)).collect();
    let fewest: Vec<usize> = useful.iter().map(|kept| kept[0]).collect();
    let smallest = bytes_of(parts, &fewest);
    if smallest > budget {
        return Err(TooSmall(smallest));
    }
    let (mut best, price) = relaxed(parts, &useful, budget - smallest);
    let Some(price) = price else {
        return Ok(best);
    };
    let mut best_loss = loss_of(parts, &best);
    let mut take = |chosen: Vec<usize>| {
        let loss = loss_of(parts, &chosen);
        if bytes_of(parts, &chosen) <= budget && loss < best_loss {
            (best, best_loss) = (chosen, loss);
        }
        best_loss
    };
    let mut known = take(fewest);
    for start in starts {
        known = take(start.clone());
    }
    let left = not_ruled_out(parts, &useful, budget, price, known);
    if let Some(mut chosen) = programmed(parts, &left, budget) {
        improve(parts, &useful, budget, &mut chosen);
        take(chosen);
    }
    Ok(best)
}

/// The choices that no other one beats in bytes and loss both, the fewest bytes first.
fn undominated(choices: &[Choice]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&one, &other| {
        let (one, other) = (choices[one], choices[other]);
        one.bytes.cmp(&other.bytes).then(one.loss.total_cmp(&other.loss))
    });
    let mut kept: Vec<usize> = Vec::new();
    for index in order {
        if kept.last().is_none_or(|&last| choices[index].loss < choices[last].loss) {
            kept.push(index);
        }
    }
    kept
}

fn bytes_of(parts: &[Vec<Choice>], chosen: &[usize]) -> u64 {
    parts.iter().zip(chosen).map(|(choices, &index)| choices[index].bytes).fold(0, u64::saturating_add)
}

fn loss_of(parts: &[Vec<Choice>], chosen: &[usize]) -> f64 {
    parts.iter().zip(chosen).map(|(choices, &index)| choices[index].loss).sum()
}

/// The solution of the linear relaxation without its one split part, and the loss that a byte saves there; `None` where
/// every part has its best choice.
fn relaxed(parts: &[Vec<Choice>], useful: &[Vec<usize>], slack: u64) -> (Vec<usize>, Option<f64>) {
    struct Step {
        part: usize,
        from: usize,
        to: usize,
        bytes: u64,
        saved: f64,
    }
    let mut steps = Vec::new();
    for (part, kept) in useful.iter().enumerate() {
        let hull = convex_hull(&parts[part], kept);
        for pair in hull.windows(2) {
            let (from, to) = (parts[part][pair[0]], parts[part][pair[1]]);
            let bytes = to.bytes - from.bytes;
            steps.push(Step { part, from: pair[0], to: pair[1], bytes, saved: (from.loss - to.loss) / float(bytes) });
        }
    }
    // Stable, and within a part each step saves less than the one before it: steps of a part stay in order.
    steps.sort_by(|one, other| other.saved.total_cmp(&one.saved));
    let mut chosen: Vec<usize> = useful.iter().map(|kept| kept[0]).collect();
    let (mut left, mut price) = (slack, None);
    for step in steps {
        if step.bytes > left {
            price.get_or_insert(step.saved);
        } else if chosen[step.part] == step.from {
            chosen[step.part] = step.to;
            left -= step.bytes;
        }
    }
    (chosen, price)
}

/// The undominated choices on the lower convex hull of loss over bytes.
fn convex_hull(choices: &[Choice], kept: &[usize]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::new();
    for &index in kept {
        while let [.., before, last] = hull[..] {
            let (before, last, next) = (choices[before], choices[last], choices[index]);
            let saved_to_last = (before.loss - last.loss) / float(last.bytes - before.bytes);
            let saved_to_next = (before.loss - next.loss) / float(next.bytes - before.bytes);
            if saved_to_last > saved_to_next {
                break;
            }
            hull.pop();
        }
        hull.push(index);
    }
    hull
}

/// The choices that a solution with less loss than `known` could have, by the Lagrangian bound at that price of a byte.
fn not_ruled_out(parts: &[Vec<Choice>], useful: &[Vec<usize>], budget: u64, price: f64, known: f64) -> Vec<Vec<usize>> {
    let priced = |part: usize, index: usize| parts[part][index].loss + price * float(parts[part][index].bytes);
    let least: Vec<f64> = useful
        .iter()
        .enumerate()
        .map(|(part, kept)| kept.iter().map(|&index| priced(part, index)).fold(f64::INFINITY, f64::min))
        .collect();
    let (sum, spent) = (least.iter().sum::<f64>(), price * float(budget));
    // What rounding may have done to the sums.
    let tolerance = 1e-10 * (known + sum.abs() + spent);
    let bound = sum - spent - tolerance;
    let kept = useful.iter().enumerate().map(|(part, kept)| {
        kept.iter().copied().filter(|&index| bound + (priced(part, index) - least[part]) <= known).collect()
    });
    kept.collect()
}

/// The best choices among those left, by dynamic programming over bytes; `None` where nothing is left to choose from.
fn programmed(parts: &[Vec<Choice>], left: &[Vec<usize>], budget: u64) -> Option<Vec<usize>> {
    let mut chosen: Vec<usize> = Vec::with_capacity(parts.len());
    for kept in left {
        chosen.push(*kept.first()?);
    }
    let open: Vec<usize> = (0..parts.len()).filter(|&part| left[part].len() > 1).collect();
    let slack = budget.checked_sub(bytes_of(parts, &chosen))?;
    let more = |part: usize, index: usize| parts[part][index].bytes - parts[part][left[part][0]].bytes;
    let most = open.iter().map(|&part| left[part].last().map_or(0, |&index| more(part, index)));
    let slack = slack.min(most.fold(0, u64::saturating_add));
    let common = open.iter().flat_map(|&part| left[part].iter().map(move |&index| (part, index)));
    let divisor = common.map(|(part, index)| more(part, index)).fold(0, greatest_common_divisor).max(1);
    let unit = if slack / divisor > STEPS_AT_MOST { slack.div_ceil(STEPS_AT_MOST) } else { divisor };
    let steps = usize::try_from(slack / unit).ok()? + 1;

    let mut least = vec![0.0; steps];
    let mut picks: Vec<Vec<u16>> = Vec::with_capacity(open.len());
    for &part in &open {
        let first = parts[part][left[part][0]].loss;
        let mut next: Vec<f64> = least.iter().map(|loss| loss + first).collect();
        let mut pick = vec![0_u16; steps];
        for (number, &index) in (0_u16..).zip(&left[part]).skip(1) {
            let Ok(width) = usize::try_from(more(part, index).div_ceil(unit)) else { continue };
            let loss = parts[part][index].loss;
            for ((next, pick), before) in next.iter_mut().zip(&mut pick).skip(width).zip(&least) {
                if before + loss < *next {
                    (*next, *pick) = (before + loss, number);
                }
            }
        }
        least = next;
        picks.push(pick);
    }
    let mut step = steps - 1;
    for (&part, pick) in open.iter().zip(&picks).rev() {
        chosen[part] = left[part][usize::from(pick[step])];
        step -= usize::try_from(more(part, chosen[part]).div_ceil(unit)).ok()?;
    }
    Some(chosen)
}

/// Takes the choice that saves most loss within what is left of the budget, until there is none.
fn improve(parts: &[Vec<Choice>], useful: &[Vec<usize>], budget: u64, chosen: &mut [usize]) {
    loop {
        let left = budget.saturating_sub(bytes_of(parts, chosen));
        let mut better: Option<(f64, usize, usize)> = None;
        for (part, kept) in useful.iter().enumerate() {
            let now = parts[part][chosen[part]];
            for &index in kept {
                let then = parts[part][index];
                let saved = now.loss - then.loss;
                if saved > better.map_or(0.0, |(most, ..)| most) && then.bytes <= now.bytes.saturating_add(left) {
                    better = Some((saved, part, index));
                }
            }
        }
        let Some((_, part, index)) = better else { return };
        chosen[part] = index;
    }
}

fn greatest_common_divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { greatest_common_divisor(other, one % other) }
}

#[expect(clippy::cast_precision_loss, reason = "a price per byte needs no exact bytes, and bounds have a tolerance")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}
