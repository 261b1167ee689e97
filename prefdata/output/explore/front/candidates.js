// The answers to one prompt side by side: what is known of each, and how often the kernel draws it.
"use strict";
const candidates = (() => {
  const fixed = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));
  const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(3);
  const share = (p) => (p >= 0.001 || p === 0 ? `${(100 * p).toFixed(1)} %` : `${(100 * p).toExponential(1)} %`);

  // How an answer was ranked and made, in words.
  function said(i, told) {
    const rank = data.columns.rank[i];
    return [
      rank !== null && `rank ${rank}`,
      told.score !== undefined && `score ${Number(told.score.toPrecision(4))}`,
      told.win_prob !== undefined && `wins ${Number(told.win_prob.toPrecision(3))}`,
      `${data.named("origin", i)} by ${data.named("producer", i)}`,
      told.temperature !== undefined && `temperature ${told.temperature}`,
      told.sample !== undefined && `sample ${told.sample}`,
      told.parent !== undefined && (told.of === null ? `of ${told.parent}` : `of answer ${told.of + 1}`),
      `finish ${told.finish}`,
      told.copies > 1 && `${told.copies} copies`,
      `${data.columns.chars[i]} chars`,
    ].filter(Boolean);
  }

  const Logps = ({ i, chosen }) =>
    data.references.length > 0 &&
    html`<table class="logps">
    <tr><th>reference</th><th title="nats, the end token included">log-prob</th><th>tokens</th>
      <th title="nats a token">/token</th>
      <th title="the chosen answer's log-prob less this one's, nats">margin</th></tr>
    ${data.references.map((r) => {
      const [logp, tokens, best] = [r.logp[i], r.tokens[i], r.logp[chosen]];
      return html`<tr key=${r.name}><td>${r.name}</td><td>${fixed(logp)}</td><td>${tokens ?? "–"}</td>
        <td>${fixed(tokens ? logp / tokens : null)}</td>
        <td>${logp === null || best === null ? "–" : i === chosen ? "" : signed(best - logp)}</td></tr>`;
    })}</table>`;

  const Drawn = ({ found, i }) => {
    const at = found ? found.pool.indexOf(i) : -1;
    if (at < 0) return found && html`<p class="note">not in the kernel's pool</p>`;
    if (!found.probabilities) return html`<p class="note">too many proposals to go through</p>`;
    const p = found.probabilities[at];
    return html`<p class="draw" data-p=${p} data-score=${found.scores[at]}
      title=${`probability ${p}, log-weight ${found.scores[at]}`}>
      <span class="fill" style=${{ width: `${100 * p}%` }}></span><span>drawn ${share(p)}</span>
      ${
        found.drawn?.includes(at) &&
        html`<span class="mark" title="by the keyed draw of the first epoch">✓ first epoch</span>`
      }</p>`;
  };

  const Card = ({ i, number, told, chosen, found, s, set }) => {
    const role = data.named("role", i);
    const pick = (side) => html`<button class=${s[side] === String(number) ? "plain on" : "plain"}
      onClick=${() => set({ [side]: s[side] === String(number) ? "" : String(number) })}
      title="compare word by word">${side === "left" ? "A" : "B"}</button>`;
    return html`<article class=${`card ${role}`} id=${`c${number}`}>
      <header><b>${number}. ${role}</b><span class="pick">diff ${pick("left")}${pick("right")}</span></header>
      <p class="facts">${said(i, told).join(" · ")}</p>
      <${Drawn} found=${found} i=${i} /><${Logps} i=${i} chosen=${chosen} />
      <pre class="text">${told.text}</pre><p class="id">${told.id}</p>
    </article>`;
  };

  const Slider = ({
    label,
    value,
    least,
    most,
    step,
    told,
    onInput,
    name,
  }) => html`<label class="slider">${label} <output>${told ?? value}</output>
    <input type="range" name=${name} min=${least} max=${most} step=${step} value=${value}
      onInput=${(e) => onInput(Number(e.target.value))} /></label>`;

  const Kernel = ({ s, set, found, size }) => {
    if (!data.references.length)
      return html`<section class="kernel"><h3>The kernel</h3>
        <p class="note">No log-probs in this set: nothing to weigh by.</p></section>`;
    const names = data.references.map((r, k) => [String(k), r.name]);
    const all = names.length > 1 ? [[kernel.VIRTUAL, "MRPO's virtual reference"]] : [];
    const check = (key, label) =>
      html`<label class="check"><input type="checkbox" checked=${Boolean(s[key])}
        onChange=${(e) => set({ [key]: Number(e.target.checked) })} /> ${label}</label>`;
    const own = (key, label, options) =>
      html`<${list.Select} label=${label} value=${String(s[key])} options=${options}
        onInput=${(v) => set({ [key]: typeof s[key] === "number" ? Number(v) : v })} />`;
    return html`<section class="kernel"><h3>What the kernel draws</h3>
      <div class="grid">
        ${own("weight", "weight", [
          ["ratio", "ratio: β (log π − log π_ref)"],
          ["policy", "policy: β log π"],
          ["policy_per_token", "policy_per_token: β log π / |y|"],
        ])}
        ${own("policy", "log π is that of", names)}
        ${own("reference", "log π_ref is that of", [...names, ...all])}
        <${Slider} name="beta" label="β" value=${Math.log10(s.beta)} told=${Number(s.beta.toPrecision(3))}
          least="-3" most="1.5" step="0.05"
          onInput=${(v) => set({ beta: Number((10 ** v).toPrecision(3)) })} />
        <${Slider} name="steps" label="T, steps" value=${s.steps} least="1" most="16" step="1"
          onInput=${(v) => set({ steps: v })} />
        <${Slider} name="proposals" label="proposals a step" value=${s.proposals} told=${s.proposals || "all"}
          least="0" most="8" step="1" onInput=${(v) => set({ proposals: v })} />
        <${Slider} name="count" label="M, negatives" value=${s.count} least="1" most="8" step="1"
          onInput=${(v) => set({ count: v })} />
        <span>${check("chosen", "the chosen may be drawn")}
          ${data.names.origin.includes("noise") && check("noise", "noise may be drawn")}</span>
      </div>
      <p class="note">${
        found
          ? html`Effective size of the weights: <b data-size=${found.size}>${found.size.toFixed(3)}</b> of ${size}.`
          : size
            ? "An answer of the pool has no log-prob: the trainer would refuse to draw."
            : "Nothing to draw from."
      }
        ${" "}A policy changes while it trains; here a reference's log-probs stand for its own.
        ${
          s.weight === "ratio" &&
          s.reference === String(s.policy) &&
          " It equals the reference, as at the start of training: all weights are the same."
        }
        ${s.steps > 1 && !s.proposals && " With all answers proposed one step is exact: T changes nothing."}</p>
    </section>`;
  };

  return { Card, Kernel };
})();
