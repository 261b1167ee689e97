// The filters and the list of prompts; only the rows that are seen are in the document.
"use strict";
const list = (() => {
  const ROW = 66; // pixels, as .row in page.css
  const BEYOND = 6; // rows

  const Select = ({ label, value, options, onInput }) => html`<label>${label}
    <select aria-label=${label || "order"} value=${value} onInput=${(e) => onInput(e.target.value)}>
      ${options.map(([key, words]) => html`<option key=${key} value=${key} selected=${key === value}>${words}</option>`)}
    </select></label>`;

  const any = (names) => [["", "any"], ...names.map((name) => [name, name])];

  const range = (value) => (value.includes("..") ? value.split("..") : ["", ""]);
  const Range = ({ label, value, onInput }) => {
    const [from, to] = range(value);
    const told = (a, b) => onInput(a === "" && b === "" ? "" : `${a}..${b}`);
    return html`<label class="range">${label}<span>
      <input type="number" step="any" placeholder="from" aria-label="${label} from" value=${from}
        onChange=${(e) => told(e.target.value, to)} />
      <input type="number" step="any" placeholder="below" aria-label="${label} below" value=${to}
        onChange=${(e) => told(from, e.target.value)} /></span></label>`;
  };

  const RANGES = [
    ["chars", "characters"],
    ["margin", "margin"],
    ["ratio", "length ratio"],
    ["gap", "score gap"],
    ["copies", "merged answers"],
    ["rejected", "rejected answers"],
  ];

  let unfolded = null; // until it is folded by hand: where an address has filters
  const Filters = ({ s, set, found }) => {
    const own = (key, label, options) =>
      options.length > 1 &&
      html`<${Select} key=${key} label=${label} value=${s[key]} options=${options} onInput=${(v) => set({ [key]: v })} />`;
    const active = state.FILTERS.filter((key) => s[key]).length;
    return html`<div class="filters">
      <div class="search"><input id="search" type="search" aria-label="search" value=${s.q}
        placeholder="id, or words of the prompt's beginning ( / )"
        onInput=${(e) => set({ q: e.target.value })} />
        <${Select} label="" value=${s.sort} options=${Object.entries(state.SORTS)} onInput=${(v) => set({ sort: v })} /></div>
      <details class="more" open=${unfolded ?? active > Number(s.q !== "")} onToggle=${(e) => {
        unfolded = e.currentTarget.open;
      }}><summary>filters${active > 0 && ` (${active})`}</summary><div class="grid">
        ${own("split", "split", any(data.names.split.filter((_, i) => data.prompts.split.includes(i))))}
        ${own("source", "source", any(data.names.source))}
        ${own("model", "model", any(data.names.producer))}
        ${own("rival", "and model", any(data.names.producer))}
        ${own("chosenBy", "chosen answer by", any(data.names.producer))}
        ${own("origin", "origin", any(data.names.origin))}
        ${own("problem", "problem", [["", "any"], ...data.problems.map((p) => [p.key, p.words])])}
        ${own("reason", "dropped", any(data.names.reason))}
        ${RANGES.map(
          ([key, label]) =>
            data.prompts[key].some((v) => v !== null) &&
            html`<${Range} key=${key} label=${label} value=${s[key]} onInput=${(v) => set({ [key]: v })} />`,
        )}
      </div></details>
      <p class="note" id="found">${overview.number(found.length)} of ${overview.number(data.count)} prompts
        ${active > 0 && html` <button class="plain" onClick=${() => set(state.cleared(s))}>show all</button>`}</p>
    </div>`;
  };

  const Row = ({ i, at, on, open }) => {
    const p = data.prompts;
    const [margin, [worst = null, ...more]] = [p.margin[i], p.problems[i]];
    return html`<button class=${on ? "row on" : "row"} style=${{ top: `${at * ROW}px` }} onClick=${() => open(i)}
      aria-current=${on} data-id=${p.id[i]}>
      <span class="begins">${p.text[i] || "(no text)"}</span>
      <span class="facts">${data.names.split[p.split[i]]} · ${p.chars[i]} chars
        ${margin !== null && ` · margin ${overview.short(margin)}`}
        ${worst !== null && html` · <span class="bad">${data.problems[worst].label}</span>`}
        ${more.length > 0 && html`<span class="bad"> +${more.length}</span>`}</span>
    </button>`;
  };

  let top = 0;
  const List = ({ found, current, open, again }) => {
    const box = document.getElementById("list");
    const seen = Math.ceil((box?.clientHeight || 900) / ROW);
    const first = Math.max(Math.floor(top / ROW) - BEYOND, 0);
    const shown = found.slice(first, first + seen + 2 * BEYOND);
    return html`<div id="list" class="list" tabindex="-1" onScroll=${(e) => {
      top = e.currentTarget.scrollTop;
      again();
    }}>
      <div class="space" style=${{ height: `${found.length * ROW}px` }}>
        ${shown.map((i, k) => html`<${Row} key=${i} ...${{ i, at: first + k, on: i === current, open }} />`)}</div></div>`;
  };

  // Scroll no farther than needed to see a place of the list.
  function reveal(at) {
    const box = document.getElementById("list");
    if (!box || at < 0) return;
    if (at * ROW < box.scrollTop) box.scrollTop = at * ROW;
    else if ((at + 1) * ROW > box.scrollTop + box.clientHeight) box.scrollTop = (at + 1) * ROW - box.clientHeight;
    top = box.scrollTop;
  }

  return { Filters, List, Select, reveal };
})();
