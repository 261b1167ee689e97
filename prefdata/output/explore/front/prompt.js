// One prompt: its messages, its answers, a comparison of two, what judges said, what was dropped, the tokens trained on.
"use strict";
const prompt = (() => {
  const MOST_EDITS = 4000;

  const Message = ({ m }) => html`<div class="message"><b>${m.role}</b><pre class="text">${m.text}</pre></div>`;

  const shown = ({ value, added, removed }) =>
    added ? html`<ins>${value}</ins>` : removed ? html`<del>${value}</del>` : value;

  const Difference = ({ one, other, names }) => {
    const parts = Diff.diffWordsWithSpace(one, other, { maxEditLength: MOST_EDITS });
    return html`<section class="difference"><h3>Answer ${names[0]} against ${names[1]}, word by word</h3>
      ${
        parts
          ? html`<pre class="text">${parts.map(shown)}</pre>
          <p class="note"><del>only in ${names[0]}</del> <ins>only in ${names[1]}</ins></p>`
          : html`<p class="note">The two have too little in common to compare them word by word.</p>`
      }</section>`;
  };

  const answer = (place) => (typeof place === "number" ? `answer ${place + 1}` : place);
  const outcomes = { a: "a", b: "b" };

  const Verdicts = ({ verdicts }) =>
    verdicts.length > 0 &&
    html`<section><h3>Verdicts</h3><div class="wide"><table class="verdicts">
    <tr><th>judge</th><th>a</th><th>b</th><th>shown first</th><th>better</th><th>margin</th><th>the judge's words</th></tr>
    ${verdicts.map(
      (
        v,
        k,
      ) => html`<tr key=${k}><td>${v.judge}</td><td>${answer(v.a)}</td><td>${v.b === undefined ? "" : answer(v.b)}</td>
      <td>${v.order === undefined ? "" : v.order === "ab" ? "a" : "b"}</td>
      <td>${v.outcome === undefined ? "" : v.outcome in outcomes ? answer(v[v.outcome]) : v.outcome}</td>
      <td>${v.margin !== undefined ? v.margin.toFixed(3) : v.score !== undefined ? `score ${v.score.toFixed(3)}` : ""}</td>
      <td><${Words} v=${v} /></td></tr>`,
    )}</table></div></section>`;

  const Words = ({ v }) => {
    const words = [v.reason, v.raw].filter(Boolean).join("\n");
    const cut = v.cut && html`<p class="note">cut here: the table verdicts has all</p>`;
    return words.length > 160
      ? html`<details><summary>${words.slice(0, 120)}…</summary><pre class="text">${words}</pre>${cut}</details>`
      : html`<pre class="text">${words}</pre>`;
  };

  const Gone = ({ d }) => html`<article class="card dropped">
    <p><b>${d.stage}: ${d.reason}</b>${d.detail && ` (${d.detail})`}${d.producer && ` · by ${d.producer}`}</p>
    ${d.text !== undefined && html`<pre class="text">${d.text}</pre>`}</article>`;

  const Dropped = ({ dropped }) =>
    dropped.length > 0 &&
    html`<section><h3>Dropped answers</h3>${dropped.map((d, k) => html`<${Gone} key=${k} d=${d} />`)}</section>`;

  const Spans = ({ name, own, loss, from = 0, to }) => {
    const places = own.ids.slice(from, to).map((_, k) => from + k);
    return html`<p class=${loss ? "tokens loss" : "tokens"}><span class="note">
      ${name}: ${places.length} tokens, ${loss ? "carry the loss" : "no loss"}</span>
      ${places.map((k) => html`<span class="token" title=${own.ids[k]}>${own.texts[k]}<sub>${own.ids[k]}</sub></span> `)}</p>`;
  };

  const Tokens = ({ tokens, roles }) => {
    if (!data.tokens)
      return html`<p class="note">No tokens in this page: write it with --tokens MODEL to see those that are trained on.</p>`;
    if (!tokens)
      return html`<p class="note">The page has the tokens of its first ${data.tokens.prompts} prompts, by id;
        prefdata show --tokens prints those of any.</p>`;
    return html`<details><summary>Tokens by ${data.tokens.tokenizer}</summary>
      ${tokens.refused && html`<p class="bad">not trained on: ${tokens.refused}</p>`}
      <${Spans} name="prompt" own=${tokens.prompt} loss=${false} />
      ${tokens.candidates.map(
        (own, k) => html`<div key=${k}><b>${k + 1}. ${roles[k]}</b>
        ${own.refused && html`<p class="bad">not trained on: ${own.refused}</p>`}
        ${
          own.gives_back !== undefined &&
          html`<p class="bad">these tokens do not give the answer back but: ${own.gives_back}</p>`
        }
        <${Spans} name="answer" own=${own} loss=${own.loss} to=${own.ids.length - own.ended} />
        <${Spans} name="end" own=${own} loss=${own.loss} from=${own.ids.length - own.ended} /></div>`,
      )}</details>`;
  };

  const Prompt = ({ place, texts, s, set, close }) => {
    const all = data.candidates(place);
    const chosen = all.find((i) => data.named("role", i) === "chosen");
    const found = data.drawn(place, state.kernelOf(s));
    const [p, worst] = [data.prompts, data.prompts.problems[place]];
    const [left, right] = [texts.candidates[Number(s.left) - 1], texts.candidates[Number(s.right) - 1]];
    const pool = found?.pool.length ?? all.filter((i) => data.named("role", i) === "rejected").length;
    return html`<div class="prompt">
      <header><button class="plain back" onClick=${close}>← prompts</button><h2>${p.id[place]}</h2>
        <p class="facts">${data.names.split[p.split[place]]} · ${data.names.source[p.source[place]]}
          ${p.margin[place] !== null && ` · margin ${overview.short(p.margin[place])} nats a token`}</p>
        ${worst.map(
          (k) => html`<span class="bad tag" key=${k} title=${data.problems[k].words}>${data.problems[k].label}</span>`,
        )}</header>
      ${texts.prompt.map((m, k) => html`<${Message} key=${k} m=${m} />`)}
      ${Object.entries(texts.more).map(
        ([name, text]) =>
          html`<details key=${name}><summary>${name}</summary><pre class="text">${text}</pre></details>`,
      )}
      <${candidates.Kernel} ...${{ s, set, found, size: pool }} />
      ${left && right && html`<${Difference} one=${left.text} other=${right.text} names=${[s.left, s.right]} />`}
      <div class="cards">${all.map((i, k) => {
        const told = texts.candidates[k];
        return html`<${candidates.Card} key=${i} ...${{ i, number: k + 1, told, chosen, found, s, set }} />`;
      })}</div>
      <${Tokens} tokens=${texts.tokens} roles=${all.map((i) => data.named("role", i))} />
      <${Verdicts} verdicts=${texts.verdicts} /><${Dropped} dropped=${texts.dropped} />
    </div>`;
  };

  return { Prompt };
})();
