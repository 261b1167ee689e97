// The kernel's weights and draws, as train/objectives/negatives.py and references.py have them: the same operations in the
// same order, in fp64. A pool is a list of {policy, tokens, logps: one a reference, gumbel}.
"use strict";
const kernel = (() => {
  // What WEIGHTS of the trainer has, by the same names.
  const WEIGHTS = {
    ratio: (policy, reference, tokens, beta) => beta * (policy - reference),
    policy: (policy, reference, tokens, beta) => beta * policy,
    policy_per_token: (policy, reference, tokens, beta) => (beta * policy) / Math.max(tokens, 1),
  };
  const VIRTUAL = "virtual";
  const MOST_SUBSETS = 5000;
  const MOST_POOL = 14;

  const sum = (values) => values.reduce((total, value) => total + value, 0);

  function logsumexp(values) {
    const most = Math.max(...values);
    return most === -Infinity ? most : most + Math.log(sum(values.map((v) => Math.exp(v - most))));
  }

  function softmax(scores) {
    const most = Math.max(...scores);
    const weights = scores.map((s) => Math.exp(s - most));
    const total = sum(weights);
    return weights.map((w) => w / total);
  }

  function effectiveSize(scores) {
    const weights = softmax(scores);
    return sum(weights) ** 2 / sum(weights.map((w) => w * w));
  }

  // MRPO's virtual reference of one candidate by the chosen one: CTRO's clip with shared eps, ARWC's weights.
  function virtual(chosen, own, epsMax) {
    const size = own.length;
    const [w, l] = [Math.abs(sum(chosen) / size), Math.abs(sum(own) / size)];
    const share = w + l > 0 ? w / (w + l) : 0.5;
    const clip = (logps, eps) =>
      logps.map((v, k) => (k ? Math.min(Math.max(v, (1 + eps) * logps[0]), (1 - eps) * logps[0]) : v));
    const [clippedW, clippedL] = [clip(chosen, epsMax * share), clip(own, epsMax * (1 - share))];
    const gaps = chosen.map((v, k) => Math.abs(v - own[k]));
    const total = sum(gaps);
    const alpha = gaps.map((g) => (total > 0 ? g / total : 1 / size));
    const of = (clipped) => -logsumexp(alpha.map((a, k) => Math.log(a) - clipped[k]));
    return of(clippedL) - of(clippedW) + chosen[0];
  }

  // Log-weights of the pool. settings: weight, beta, reference (a number, or VIRTUAL), epsMax.
  function scores(pool, chosen, settings) {
    return pool.map((own) => {
      const reference =
        settings.reference === VIRTUAL
          ? virtual(chosen.logps, own.logps, settings.epsMax)
          : own.logps[settings.reference] - chosen.logps[settings.reference] + chosen.logps[settings.reference];
      return WEIGHTS[settings.weight](own.policy, reference, own.tokens, settings.beta);
    });
  }

  function choose(n, k) {
    let count = 1;
    for (let i = 0; i < k; i++) count = (count * (n - i)) / (i + 1);
    return count;
  }

  // The next places of a subset of `size` things, in order; false after the last. In place: there are millions of them.
  function next(places, size) {
    let k = places.length - 1;
    while (k >= 0 && places[k] === size - places.length + k) k--;
    if (k < 0) return false;
    for (let at = places[k] + 1; k < places.length; k++) places[k] = at++;
    return true;
  }

  // One step from `current` (none: the first): the mean of softmax over every subset that may be proposed.
  function step(weights, current, proposals) {
    const others = [...weights.keys()].filter((i) => i !== current);
    const places = [...Array(Math.min(proposals, others.length)).keys()];
    const made = weights.map(() => 0);
    const own = current === null ? -Infinity : weights[current];
    const shares = new Float64Array(places.length);
    let count = 0;
    do {
      let most = own;
      for (const place of places) most = Math.max(most, weights[others[place]]);
      const stays = Math.exp(own - most);
      let total = stays;
      for (let k = 0; k < places.length; k++) total += shares[k] = Math.exp(weights[others[places[k]]] - most);
      if (current !== null) made[current] += stays / total;
      for (let k = 0; k < places.length; k++) made[others[places[k]]] += shares[k] / total;
      count += 1;
    } while (next(places, others.length));
    return made.map((p) => p / count);
  }

  // Where a chain is after its last step: a probability for each of the pool; null where there are too many
  // subsets to go through.
  function chain(weights, steps, proposals) {
    if (proposals === null || proposals >= weights.length) return softmax(weights);
    if (weights.length * choose(weights.length, proposals) > MOST_SUBSETS) return null;
    let now = step(weights, null, proposals);
    if (steps === 1) return now;
    const after = weights.map((_, i) => step(weights, i, proposals));
    for (let t = 1; t < steps; t++) now = now.map((_, j) => sum(now.map((p, i) => p * after[i][j])));
    return now;
  }

  // The probability of each to be among `count` draws without replacement, one after another (Gumbel-top-M).
  function amongFirst(weights, count) {
    if (count >= weights.length) return weights.map(() => 1);
    if (count === 1) return softmax(weights);
    if (weights.length > MOST_POOL) return null;
    const reached = new Map([[0, 1]]);
    const made = weights.map(() => 0);
    for (let drawn = 0; drawn < count; drawn++)
      for (const [mask, p] of [...reached].filter(([m]) => bits(m) === drawn)) {
        const left = weights.map((_, i) => i).filter((i) => !(mask & (1 << i)));
        softmax(left.map((i) => weights[i])).forEach((q, k) => {
          const both = mask | (1 << left[k]);
          reached.set(both, (reached.get(both) ?? 0) + p * q);
          made[left[k]] += p * q;
        });
      }
    return made;
  }

  const bits = (mask) => (mask ? (mask & 1) + bits(mask >> 1) : 0);
  const single = (settings) => settings.steps === 1 && settings.proposals === null;

  // What is drawn of a pool: {scores, probabilities (to be drawn at least once; null: too many to count), drawn, size}.
  // `drawn`: places that the first epoch draws with the keyed noise, where the kernel takes one step over the whole pool.
  function draw(pool, chosen, settings) {
    const found = scores(pool, chosen, settings);
    if (!pool.length || !found.every(Number.isFinite)) return null;
    const once = single(settings) ? null : chain(found, settings.steps, settings.proposals);
    const probabilities = single(settings)
      ? amongFirst(found, settings.count)
      : once && once.map((p) => 1 - (1 - p) ** settings.count);
    return { scores: found, probabilities, drawn: drawnOf(found, pool, settings), size: effectiveSize(found) };
  }

  function drawnOf(found, pool, settings) {
    if (!single(settings)) return null;
    const keys = found.map((s, i) => s + pool[i].gumbel);
    const order = keys.map((_, i) => i).sort((a, b) => keys[b] - keys[a] || a - b);
    return order.slice(0, settings.count).sort((a, b) => a - b);
  }

  return { WEIGHTS, VIRTUAL, draw, chain, amongFirst, softmax };
})();
