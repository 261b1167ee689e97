// The data of the page: columns of all prompts at once, texts of some prompts when they are wanted.
"use strict";
const data = (() => {
  const HELD = 24;
  const opened = new Map();

  async function unpack(id) {
    const coded = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(coded, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  // All columns; later functions read them here.
  async function load() {
    const { candidates: columns, ...rest } = await unpack("data");
    Object.assign(api, rest, { columns });
    api.count = api.prompts.id.length;
    api.place = new Map(api.prompts.id.map((id, i) => [id, i]));
  }

  // The texts of a prompt: from its chunk, of which the last few stay open.
  async function texts(prompt) {
    const number = Math.floor(prompt / api.chunk);
    const kept = opened.get(number) ?? unpack(`texts-${number}`);
    opened.delete(number);
    opened.set(number, kept);
    if (opened.size > HELD) opened.delete(opened.keys().next().value);
    return (await kept)[prompt % api.chunk];
  }

  // Places of a prompt's candidates in the columns: [first, end).
  function candidates(prompt) {
    const first = api.prompts.first[prompt];
    const end = prompt + 1 < api.count ? api.prompts.first[prompt + 1] : api.columns.role.length;
    return Array.from({ length: end - first }, (_, i) => first + i);
  }

  const named = (column, i) => api.names[column][api.columns[column][i]];
  const isChosen = (i) => named("role", i) === "chosen";

  // A candidate as the kernel sees it, the log-probs of one reference taken for the policy's.
  function weighed(i, settings) {
    const policy = api.references[settings.policy];
    return {
      place: i,
      policy: policy.logp[i] ?? NaN,
      tokens: policy.tokens[i] ?? NaN,
      logps: api.references.map((r) => r.logp[i] ?? NaN),
      gumbel: api.columns.gumbel[i],
    };
  }

  // {pool: places in the columns, ...what kernel.draw gives}; null where there is nothing to draw or to weigh by.
  function drawn(prompt, settings) {
    if (!api.references.length) return null;
    const all = candidates(prompt);
    const chosen = all.find(isChosen);
    const origins = settings.noise ? [...api.pool, "noise"] : api.pool;
    const kept = all.filter(
      (i) =>
        (settings.chosen && isChosen(i)) || (named("role", i) === "rejected" && origins.includes(named("origin", i))),
    );
    const pool = kept.map((i) => weighed(i, settings));
    const made = kernel.draw(pool, weighed(chosen, settings), settings);
    return made && { pool: kept, ...made };
  }

  const api = { load, texts, candidates, named, drawn };
  return api;
})();
