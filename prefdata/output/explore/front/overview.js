// Counts of the set as bars; each opens its prompts.
"use strict";
const html = htm.bind(preact.h);
const overview = (() => {
  const BINS = 12;
  const MOST_BARS = 30;

  const number = (value) => value.toLocaleString("en");
  const short = (value) =>
    Number.isInteger(value)
      ? String(value)
      : Math.abs(value) >= 100
        ? value.toFixed(0)
        : Math.abs(value) >= 1
          ? value.toFixed(1)
          : value.toFixed(2);

  function counted(values) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    return counts;
  }

  // Bars of one kind: [{label, count, filter: what a click sets}].
  function byName(column, names, key) {
    const counts = counted(column.flat());
    const made = names.map((label, i) => ({ label, count: counts.get(i) ?? 0, filter: { [key]: label } }));
    return made.filter((bar) => bar.count).sort((a, b) => b.count - a.count);
  }

  function byCandidate(column, key) {
    const of = (i) => [...new Set(data.candidates(i).map((c) => data.named(column, c)))];
    const counts = counted(Array.from({ length: data.count }, (_, i) => of(i)).flat());
    return [...counts]
      .map(([label, count]) => ({ label, count, filter: { [key]: label } }))
      .sort((a, b) => b.count - a.count);
  }

  // Equal bins between the 1st and the 99th percentile, what lies outside in the two at the ends; `scale`: log for lengths.
  function histogram(values, key, scale, back) {
    const known = values.filter((v) => v !== null).sort((a, b) => a - b);
    if (!known.length) return [];
    const at = (share) => scale(known[Math.floor(share * (known.length - 1))]);
    const [low, high] = [at(0.01), at(0.99)];
    const width = (high - low) / BINS || 1;
    const edges = Array.from({ length: BINS - 1 }, (_, k) => back(low + (k + 1) * width));
    const ends = [...new Set(edges)];
    const ranges = ["", ...ends].map((from, k) => [from, ends[k] ?? ""]);
    return ranges
      .map(([from, to]) => ({
        label:
          from === ""
            ? to === ""
              ? "all"
              : `below ${short(to)}`
            : to === ""
              ? `${short(from)} and more`
              : `${short(from)} to ${short(to)}`,
        count: known.filter((v) => !(v < (from === "" ? NaN : from)) && !(v >= (to === "" ? NaN : to))).length,
        filter: { [key]: `${from}..${to}` },
      }))
      .filter((bar) => bar.count);
  }

  let fixed = null;
  function charts() {
    const p = data.prompts;
    fixed ??= [
      {
        title: "Problems",
        bars: data.problems
          .map((q, i) => ({
            label: q.words,
            count: p.problems.filter((x) => x.includes(i)).length,
            filter: { problem: q.key },
          }))
          .filter((b) => b.count),
      },
      { title: "Answers dropped", bars: byName(p.reasons, data.names.reason, "reason") },
      { title: "Splits", bars: byName(p.split, data.names.split, "split") },
      { title: "Sources", bars: byName(p.source, data.names.source, "source") },
      { title: "Models", bars: byCandidate("producer", "model") },
      { title: "Origins of answers", bars: byCandidate("origin", "origin") },
      {
        title: "Characters of the chosen answer",
        bars: histogram(
          p.chars,
          "chars",
          (v) => Math.log(Math.max(v, 1)),
          (v) => Math.round(Math.exp(v)),
        ),
      },
      {
        title: "Margin, nats a token: chosen less rejected",
        bars: histogram(
          p.margin,
          "margin",
          (v) => v,
          (v) => Number(v.toPrecision(3)),
        ),
      },
    ];
    return fixed;
  }

  function drawnChart(s) {
    if (!data.references.length) return { title: "Ranks drawn", bars: [] };
    const counts = counted(state.ranksDrawn(state.kernelOf(s)));
    const bars = [...counts].map(([label, count]) => ({
      label: /^\d/.test(label) ? `rank ${label}` : label,
      count,
      filter: { drawn: label },
    }));
    return {
      title: "Rank of the answer that the kernel draws",
      bars: bars.sort((a, b) => a.label.localeCompare(b.label, "en", { numeric: true })),
    };
  }

  const Bar = ({ bar, most, s, set }) => {
    const on = Object.entries(bar.filter).every(([key, value]) => s[key] === value);
    const clear = Object.fromEntries(Object.keys(bar.filter).map((key) => [key, ""]));
    return html`<button class=${on ? "bar on" : "bar"} aria-pressed=${on} onClick=${() => set(on ? clear : bar.filter)}>
      <span class="label">${bar.label}</span><span class="count">${number(bar.count)}</span>
      <span class="fill" style=${{ width: `${(100 * bar.count) / most}%` }}></span>
    </button>`;
  };

  const Chart = ({ chart, s, set }) => {
    if (!chart.bars.length) return null;
    const most = Math.max(...chart.bars.map((b) => b.count));
    return html`<section class="chart"><h3>${chart.title}</h3>
      <div class="bars">${chart.bars
        .slice(0, MOST_BARS)
        .map((bar) => html`<${Bar} key=${bar.label} ...${{ bar, most, s, set }} />`)}</div>
    </section>`;
  };

  const Overview = ({ s, set }) => html`<div class="overview">
    <p class="note">Prompts in each bar; a click lists them.
      ${
        data.of > data.count &&
        ` This page holds ${number(data.count)} of ${number(data.of)} prompts, drawn by a keyed sample.`
      }</p>
    <div class="charts">${[...charts(), drawnChart(s)].map(
      (chart) => html`<${Chart} key=${chart.title} ...${{ chart, s, set }} />`,
    )}</div>
    ${
      data.drops.length > 0 &&
      html`<details><summary>What the recipe's stages dropped, prompts that are not here included</summary>
      <table><tr><th>stage</th><th>unit</th><th>reason</th><th>rows</th></tr>
      ${data.drops.map(
        (d) => html`<tr>${[d.stage, d.unit, d.reason, number(d.rows)].map((told) => html`<td>${told}</td>`)}</tr>`,
      )}</table></details>`
    }
  </div>`;

  return { Overview, number, short };
})();
