// The page: what it is set to stands in the address, and each change draws it anew.
"use strict";
const page = (() => {
  const root = document.getElementById("root");
  let s = null;
  let shown = null; // {place, texts} of the open prompt
  let help = false;
  let waiting = false;

  const HELP = [
    ["j, k", "next and previous prompt"],
    ["/", "search"],
    ["a", "the overview"],
    ["Esc", "back, or close this"],
    ["?", "this help"],
  ];

  const Help = () => html`<div class="help" role="dialog" aria-label="help"><h2>Keys</h2>
    <dl>${HELP.map(([key, words]) => html`<dt><kbd>${key}</kbd></dt><dd>${words}</dd>`)}</dl>
    <p>The address holds the filters, the open prompt and the sliders: copy it to show somebody what you see.</p>
    <p><b>margin</b>: the chosen answer's log-prob less the others', under a reference; below 0 the reference likes
      them better.</p>
    <button class="plain" onClick=${() => {
      help = false;
      draw();
    }}>close</button></div>`;

  const App = () => {
    const found = state.found(s);
    const place = data.place.get(s.prompt);
    return html`<div class=${place === undefined ? "app" : "app opened"}>
      <header class="top"><h1><button class="plain" onClick=${() => set({ prompt: "" })}>${data.title}</button></h1>
        <button class="plain" onClick=${() => {
          help = !help;
          draw();
        }} aria-label="help">?</button></header>
      <nav><${list.Filters} ...${{ s, set, found }} /><${list.List} ...${{ found, current: place, open, again: draw }} /></nav>
      <main id="main" tabindex="-1">${
        place === undefined
          ? html`<${overview.Overview} ...${{ s, set }} />`
          : shown?.place === place
            ? html`<${prompt.Prompt} ...${{ ...shown, s, set, close: () => set({ prompt: "" }) }} />`
            : html`<p class="note">Opening…</p>`
      }</main>
      ${help && html`<${Help} />`}</div>`;
  };

  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      preact.render(html`<${App} />`, root);
    });
  }

  // Change what the page is set to, and the address with it.
  function set(change) {
    const before = s.prompt;
    s = state.parse(state.format({ ...s, ...change }));
    const address = state.format(s);
    if (s.prompt !== before) history.pushState(null, "", `#${address}`);
    else history.replaceState(null, "", `#${address}`);
    show(s.prompt !== before);
  }

  const open = (place) => set({ prompt: data.prompts.id[place], left: "", right: "" });

  async function show(anew) {
    const place = data.place.get(s.prompt);
    draw();
    if (place === undefined || shown?.place === place) return;
    const texts = await data.texts(place);
    if (data.place.get(s.prompt) !== place) return;
    shown = { place, texts };
    draw();
    if (anew) document.getElementById("main")?.scrollTo(0, 0);
  }

  function move(by) {
    const found = state.found(s);
    const now = found.indexOf(data.place.get(s.prompt));
    const next = now < 0 ? 0 : Math.min(Math.max(now + by, 0), found.length - 1);
    if (!found.length) return;
    list.reveal(next);
    open(found[next]);
  }

  const KEYS = {
    j: () => move(1),
    k: () => move(-1),
    a: () => set({ prompt: "" }),
    "/": () => document.getElementById("search").focus(),
    "?": () => {
      help = !help;
      draw();
    },
    Escape: () => (help ? ((help = false), draw()) : set({ prompt: "" })),
  };

  function onKey(event) {
    const typing =
      /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) &&
      event.target.type !== "range" &&
      event.target.type !== "checkbox";
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  }

  const follow = () => {
    s = state.parse(location.hash);
    show(true);
  };

  async function start() {
    await data.load();
    addEventListener("keydown", onKey);
    addEventListener("hashchange", follow);
    addEventListener("popstate", follow);
    addEventListener("resize", draw);
    root.replaceChildren();
    follow();
    requestAnimationFrame(() => list.reveal(state.found(s).indexOf(data.place.get(s.prompt))));
  }

  start().catch((error) =>
    root.replaceChildren(`This page could not be opened: ${error}. It needs a browser of 2023 or later.`),
  );
})();
