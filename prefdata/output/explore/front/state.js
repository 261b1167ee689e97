// What the page is set to: filters, order, the open prompt, the kernel. All of it stands in the address, after the #.
"use strict";
const state = (() => {
  // As the trainer's own defaults; `policy`, `reference`: numbers of references ("virtual": MRPO's of all).
  const DEFAULTS = {
    prompt: "",
    q: "",
    split: "",
    source: "",
    model: "",
    origin: "",
    reason: "",
    problem: "",
    drawn: "",
    chars: "",
    margin: "",
    ratio: "",
    gap: "",
    copies: "",
    rejected: "",
    rival: "",
    chosenBy: "",
    sort: "problems",
    left: "",
    right: "",
    weight: "ratio",
    beta: 0.1,
    steps: 1,
    proposals: 0,
    count: 1,
    policy: 0,
    reference: "0",
    eps: 0.1,
    chosen: 0,
    noise: 0,
  };
  const RANGES = ["chars", "margin", "ratio", "gap", "copies", "rejected"];
  const NAMED = ["split", "source", "model", "rival", "chosenBy", "origin", "reason", "problem", "drawn"];
  const FILTERS = ["q", ...NAMED, ...RANGES];
  const SORTS = {
    problems: "problems first",
    id: "id",
    margin: "smallest margin",
    "-margin": "largest margin",
    chars: "shortest chosen",
    "-chars": "longest chosen",
  };

  // Unknown keys and values that cannot be are left out: an address may come from anybody.
  function parse(hash) {
    const made = { ...DEFAULTS };
    for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
      if (!Object.hasOwn(DEFAULTS, key)) continue;
      if (typeof DEFAULTS[key] === "string") made[key] = value;
      else if (Number.isFinite(Number(value)) && value !== "") made[key] = Number(value);
    }
    return bounded(made);
  }

  function bounded(s) {
    const whole = (value, least, most) => Math.min(Math.max(Math.round(value), least), most);
    const references = Math.max(data.references.length, 1);
    return {
      ...s,
      sort: Object.hasOwn(SORTS, s.sort) ? s.sort : DEFAULTS.sort,
      weight: Object.hasOwn(kernel.WEIGHTS, s.weight) ? s.weight : DEFAULTS.weight,
      beta: Math.min(Math.max(s.beta, 1e-4), 100),
      eps: Math.min(Math.max(s.eps, 0), 0.99),
      steps: whole(s.steps, 1, 64),
      proposals: whole(s.proposals, 0, 64),
      count: whole(s.count, 1, 16),
      policy: whole(s.policy, 0, references - 1),
      reference:
        s.reference === kernel.VIRTUAL ? s.reference : String(whole(Number(s.reference) || 0, 0, references - 1)),
    };
  }

  function format(s) {
    const told = Object.entries(s).filter(([key, value]) => value !== DEFAULTS[key]);
    return new URLSearchParams(told.map(([key, value]) => [key, String(value)])).toString();
  }

  // As kernel.draw takes them.
  const kernelOf = (s) => ({
    weight: s.weight,
    beta: s.beta,
    steps: s.steps,
    proposals: s.proposals || null,
    count: s.count,
    policy: s.policy,
    reference: s.reference === kernel.VIRTUAL ? s.reference : Number(s.reference),
    epsMax: s.eps,
    chosen: Boolean(s.chosen),
    noise: Boolean(s.noise),
  });

  // A range "from..to", either end open; from <= value < to.
  function within(range, value) {
    const [from, to] = range.split("..").map((end) => (end === "" ? NaN : Number(end)));
    return value !== null && !(value < from) && !(value >= to);
  }

  function remembered(make) {
    let [key, value] = [null, null];
    return (...parts) => {
      const now = JSON.stringify(parts);
      if (now !== key) [key, value] = [now, make(...parts)];
      return value;
    };
  }

  // The rank of the answer that each prompt draws first, by the keyed noise over what the kernel's last step is distributed as.
  const ranksDrawn = remembered((settings) =>
    Array.from({ length: data.count }, (_, i) => {
      const found = data.drawn(i, { ...settings, count: 1 });
      if (!found?.probabilities) return "unknown";
      const keys = found.probabilities.map((p, k) => Math.log(p) + data.columns.gumbel[found.pool[k]]);
      return rankName(found.pool[keys.indexOf(Math.max(...keys))]);
    }),
  );

  function rankName(i) {
    const rank = data.columns.rank[i];
    return rank === null ? (data.named("origin", i) === "noise" ? "noise" : "unranked") : String(rank);
  }

  const find = remembered((filters, sort, settings) => {
    const { q, split, source, model, rival, chosenBy, origin, reason, problem, drawn } = filters;
    const ranges = RANGES.filter((name) => filters[name]);
    const wanted = q.toLowerCase();
    const at = (name, value) => data.names[name].indexOf(value);
    const number = {
      split: at("split", split),
      source: at("source", source),
      reason: at("reason", reason),
      chosenBy: at("producer", chosenBy),
    };
    const key = data.problems.findIndex((p) => p.key === problem);
    const ranks = drawn && ranksDrawn(settings);
    const p = data.prompts;
    const has = (i, column, value) => data.candidates(i).some((c) => data.named(column, c) === value);
    const kept = (i) =>
      (!split || p.split[i] === number.split) &&
      (!source || p.source[i] === number.source) &&
      (!reason || p.reasons[i].includes(number.reason)) &&
      (!problem || p.problems[i].includes(key)) &&
      (!chosenBy || p.chosenBy[i] === number.chosenBy) &&
      ranges.every((name) => within(filters[name], p[name][i])) &&
      (!wanted || p.id[i].startsWith(wanted) || p.text[i].toLowerCase().includes(wanted)) &&
      (!model || has(i, "producer", model)) &&
      (!rival || has(i, "producer", rival)) &&
      (!origin || has(i, "origin", origin)) &&
      (!drawn || ranks[i] === drawn);
    return sorted([...p.id.keys()].filter(kept), sort);
  });

  function sorted(places, sort) {
    const [column, sign] = sort.startsWith("-") ? [sort.slice(1), -1] : [sort, 1];
    if (column === "id") return places;
    if (column === "problems") return places.sort((a, b) => worse(a, b) || a - b);
    const values = data.prompts[column];
    const last = (i) => values[i] === null;
    return places.sort((a, b) => last(a) - last(b) || sign * (values[a] - values[b]) || a - b);
  }

  // The worst problem first; of two prompts that share it, the next worst; then who has more of them.
  function worse(a, b) {
    const [one, other] = [data.prompts.problems[a], data.prompts.problems[b]];
    for (let k = 0; k < Math.min(one.length, other.length); k++) if (one[k] !== other[k]) return one[k] - other[k];
    return other.length - one.length;
  }

  const filtersOf = (s) => Object.fromEntries(FILTERS.map((key) => [key, s[key]]));
  const found = (s) => find(filtersOf(s), s.sort, s.drawn ? kernelOf(s) : null);
  const cleared = (s) => ({ ...s, ...Object.fromEntries(FILTERS.map((key) => [key, ""])) });

  return { DEFAULTS, FILTERS, SORTS, parse, format, kernelOf, ranksDrawn, found, cleared };
})();
