"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const definition = byId("study").textContent;
  const study = JSON.parse(definition);
  const slot = `g4g-study-${study.study}`;

  // ---------------------------------------------------------------- SHA-256 (FIPS 180-4) and HMAC (RFC 2104)
  // The browser's own is not there for pages that come over plain http, as from a colleague's machine.

  const hex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const unhex = (text) => Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
  const utf8 = (text) => new TextEncoder().encode(text);
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime)) primes.push(n);
  const fraction = (value) => ((value - Math.floor(value)) * 2 ** 32) | 0;
  const rounds = primes.map((prime) => fraction(Math.cbrt(prime)));
  const turn = (x, n) => (x >>> n) | (x << (32 - n));

  function sha256(bytes) {
    const state = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));
    const padded = new Uint8Array(((bytes.length + 72) >> 6) << 6);
    padded.set(bytes);
    padded[bytes.length] = 0x80;
    const view = new DataView(padded.buffer), w = new Int32Array(64);
    view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
    view.setUint32(padded.length - 4, bytes.length << 3);
    for (let start = 0; start < padded.length; start += 64) {
      for (let i = 0; i < 64; i++) {
        if (i < 16) { w[i] = view.getInt32(start + 4 * i); continue; }
        const a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
      }
      let [a, b, c, d, e, f, g, h] = state;
      for (let i = 0; i < 64; i++) {
        const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + rounds[i] + w[i]) | 0;
        const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
      }
      [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] = (state[i] + value) | 0; });
    }
    const out = new DataView(new ArrayBuffer(32));
    state.forEach((value, i) => out.setInt32(4 * i, value));
    return new Uint8Array(out.buffer);
  }

  function hmac(key, bytes) {
    const pad = (mask) => Uint8Array.from({ length: 64 }, (_, i) => (key[i] ?? 0) ^ mask);
    const joined = (a, b) => { const both = new Uint8Array(a.length + b.length); both.set(a); both.set(b, a.length); return both; };
    return sha256(joined(pad(0x5c), sha256(joined(pad(0x36), bytes))));
  }

  // JSON with sorted keys and no blanks; what it is given holds ASCII, whole numbers and null only
  function canonical(value) {
    if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
    if (value === null || typeof value !== "object") return JSON.stringify(value);
    return `{${Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`).join(",")}}`;
  }

  // ---------------------------------------------------------------- what is kept: {rater, started, answers, ms, saved}

  let kept = null, keeps = true, known = ""; // known: the text that this tab has read or written last
  let asking = false; // whether it is open who sits here: somebody else's answers were found

  // the state that a text says: null where a rater has made way for another, undefined where it says none
  function stateOf(text) {
    let found;
    try { found = JSON.parse(text); } catch { return undefined; } // nothing or damaged, so begun anew
    return found === null || (typeof found.rater === "string" && Array.isArray(found.answers)) ? found : undefined;
  }
  // while the storage is closed to this page, or full, the rater is told that nothing is kept; what is full can be read
  function stored(act, { writes }) {
    try { act(); keeps ||= writes; } catch { keeps = false; }
    byId("unkept").hidden = keeps;
  }
  // whoever makes way for another keeps what is theirs under their code, and goes on from there when they type it again
  const aside = (rater) => `${slot}-of-${rater.toLowerCase()}`; // codes that differ in case alone are one rater's
  const read = () => { known = localStorage.getItem(slot) ?? ""; };

  // Another tab may have gone on: what it has kept is newer than what this one holds, and stands, unless it has lost
  // answers that this one has. Whether the rater is elsewhere now than this tab has shown.
  function overtaken() {
    const before = known;
    stored(read, { writes: false });
    const found = known === before ? undefined : stateOf(known);
    if (found === undefined) return false;
    if (found !== null && kept !== null && personOf(found) === personOf(kept) && found.answers.length < kept.answers.length) {
      put();
      return false;
    }
    const stays = placeOf(found) === placeOf(kept);
    if (found !== null && (kept === null || personOf(found) !== personOf(kept))) asking = true;
    kept = found;
    if (!stays) proceed();
    return !stays;
  }
  const personOf = (state) => `${state.started} ${state.rater}`;
  const placeOf = (state) => (state === null ? null : `${state.answers.length} ${Boolean(state.saved)} ${personOf(state)}`);

  function put() {
    const text = JSON.stringify(kept);
    stored(() => { localStorage.setItem(slot, text); known = text; }, { writes: true });
  }
  function keep() { if (!overtaken()) put(); }

  const trialOf = new Map(study.trials.map((trial) => [trial.id, trial]));
  let order = [];
  const lot = (...words) => hex(sha256(utf8([study.study, kept.rater, ...words].join("|"))));
  function shuffle() {
    const places = new Map(study.trials.map((trial) => [trial.id, lot(trial.id)]));
    order = [...places.keys()].sort((a, b) => (places.get(a) < places.get(b) ? -1 : 1));
  }
  function sides(trial) {
    const [first, second] = [...trial.clips].sort();
    return parseInt(lot(trial.id, "left")[0], 16) % 2 === 0 ? [first, second] : [second, first];
  }

  // ---------------------------------------------------------------- building blocks

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  let urls = [];
  function mediaUrl(token) {
    const bytes = Uint8Array.from(atob(byId(`m-${token}`).textContent), (letter) => letter.charCodeAt(0));
    const url = URL.createObjectURL(new Blob([bytes], { type: study.media[token].type }));
    urls.push(url);
    return url;
  }
  function show(id) {
    byId("held").hidden = true;
    for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== id;
    byId(`${id}-title`).focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }

  // ---------------------------------------------------------------- time that a trial is on the screen

  let since = null;
  function tick() {
    if (since === null || overtaken()) return;
    kept.ms += Math.max(0, Math.round(performance.now() - since));
    since = performance.now();
    keep();
  }
  function seenOrHidden() {
    if (!document.hidden) overtaken();
    if (document.hidden) {
      tick();
      since = null;
      for (const each of current?.players ?? []) each.video.pause(); // what nobody looks at is not seen
    } else if (!byId("trial").hidden) since = performance.now();
  }

  // ---------------------------------------------------------------- a trial

  let current = null;

  function player(token, name, shared) {
    const video = el("video", { playsinline: "", preload: "auto", "aria-label": name, disablepictureinpicture: "" });
    const state = { token, name, video, seen: false };
    const seen = el("span", { class: "seen" });
    const button = el("button", { type: "button", "aria-label": `Play ${name}` }, "▶ Play");
    button.addEventListener("click", () => play([state]));
    video.addEventListener("ended", () => { state.seen = true; seen.textContent = "✓ seen"; update(); });
    video.addEventListener("error", () => {
      byId("status").textContent = "This browser cannot play this clip. Please open the page in another one, of this year.";
    });
    video.src = mediaUrl(token);
    state.figure = el("figure", { class: shared ? null : "alone" }, video, el("figcaption", {}, el("span", {}, name, " ", seen), button));
    return state;
  }

  // from the start, in step; with two, the sound of one: both have the same
  function play(players) {
    for (const each of current.players) { each.video.pause(); each.video.currentTime = 0; }
    players.forEach((each, place) => { each.video.muted = place > 0; });
    for (const each of current.players) each.figure.classList.toggle("solo", players.length === 1 && each === players[0]);
    current.plays += 1;
    Promise.all(players.map((each) => each.video.play())).catch((error) => {
      // a click on another button stops the first: that is no fault
      if (error.name !== "AbortError") byId("status").textContent = `The clip does not play: ${error.message}`;
    });
  }

  function scale(name, legend, options, ends) {
    const choices = el("div", { class: "scale", style: `--steps: ${options.length}` });
    for (const [value, text, spoken] of options) {
      choices.append(el("label", {}, el("input", { type: "radio", name, value, disabled: "", "aria-label": spoken }), text));
    }
    return el("fieldset", {}, el("legend", {}, legend),
      choices, ends ? el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, ends[0]), el("span", {}, ends[1])) : null);
  }
  function five(name, legend, worst, best) {
    const spoken = (n) => (n === 1 ? `1, ${worst}` : n === 5 ? `5, ${best}` : String(n));
    return scale(name, legend, [1, 2, 3, 4, 5].map((n) => [n, String(n), spoken(n)]), worst ? [`1 ${worst}`, `5 ${best}`] : null);
  }

  function present() {
    for (const url of urls) URL.revokeObjectURL(url);
    urls = [];
    const done = kept.answers.length, trial = trialOf.get(order[done]);
    current = { trial, players: [], left: null, plays: 0 };
    byId("trial-title").textContent = `Task ${done + 1} of ${order.length}`;
    byId("who").textContent = kept.rater;
    byId("progress").value = done;
    const stage = byId("stage"), questions = byId("questions");
    stage.replaceChildren();
    questions.replaceChildren();
    questions.className = trial.ask === "rate" ? "rows" : "";
    if (trial.ask === "pair") {
      const [left, right] = sides(trial);
      current.left = left;
      current.players = [player(left, "A", true), player(right, "B", true)];
      const both = el("button", { type: "button", class: "both" }, "▶ Play both together");
      both.addEventListener("click", () => play(current.players));
      stage.append(...current.players.map((each) => each.figure), both);
      byId("ask").textContent = study.preference;
      questions.append(scale("choice", "Your choice", [[left, "A", "A"], ["same", "No difference", "No difference"], [right, "B", "B"]]));
    } else {
      current.players = [player(trial.clips[0], "Clip", Boolean(trial.picture))];
      stage.append(current.players[0].figure);
      if (trial.picture) {
        const photo = el("img", { alt: "A photo of the person in the clip", src: mediaUrl(trial.picture) });
        stage.append(el("figure", {}, photo, el("figcaption", {}, "Photo of the person")));
      }
      if (trial.ask === "read") {
        byId("ask").textContent = "Play the clip, then follow the instruction.";
        questions.append(five("check", `To show that questions are read: choose ${trial.choose} here.`, "", ""));
      } else {
        byId("ask").textContent = "Play the clip, then rate it.";
        for (const { id, question, worst, best } of study.scales) questions.append(five(id, question, worst, best));
      }
    }
    byId("keys").replaceChildren(...hints(trial.ask));
    update();
    show("trial");
    since = document.hidden ? null : performance.now();
  }

  function hints(ask) {
    const parts = ask === "pair" ? [[["P"], "play both"], [["A", "N", "B"], "answer"]] : [[["P"], "play"], [["1", "5"], "answer"]];
    return [...parts, [["Enter"], "next"]].map(([keys, text]) => el("span", {},
      ...keys.flatMap((key, place) => [place && text === "answer" && ask !== "pair" ? "–" : null, el("kbd", {}, key)]), ` ${text}`));
  }

  const names = () => [...new Set([...byId("questions").querySelectorAll("input")].map((input) => input.name))];
  const chosen = (name) => byId("answer").querySelector(`input[name="${name}"]:checked`)?.value ?? null;

  function update() {
    const waiting = current.players.filter((each) => !each.seen), open = names().filter((name) => chosen(name) === null);
    for (const input of byId("questions").querySelectorAll("input")) input.disabled = waiting.length > 0;
    byId("next").disabled = waiting.length > 0 || open.length > 0;
    byId("status").textContent = waiting.length === 0 ? (open.length ? "Now answer." : "")
      : current.players.length === 1 ? "Play the clip to its end; then you can answer."
      : `Play ${waiting.map((each) => each.name).join(" and ")} to the end; then you can answer.`;
  }
  byId("questions").addEventListener("change", update);

  byId("answer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (overtaken() || byId("next").disabled) return;
    tick();
    const pair = current.trial.ask === "pair";
    kept.answers.push({
      trial: current.trial.id,
      left: current.left,
      choice: pair ? chosen("choice") : null,
      scores: pair ? {} : Object.fromEntries(names().map((name) => [name, Number(chosen(name))])),
      ms: kept.ms,
      plays: current.plays,
    });
    kept.ms = 0;
    keep();
    advance();
  });

  document.addEventListener("keydown", (event) => {
    if (byId("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase(), pair = current.trial.ask === "pair";
    if (key === "p") play(current.players);
    else if (pair && ["a", "n", "b"].includes(key)) select("choice", ["a", "n", "b"].indexOf(key));
    else if (!pair && /^[1-5]$/.test(key)) {
      const name = focused() ?? unanswered();
      if (name !== undefined) select(name, Number(key) - 1);
    }
    else if (key === "enter" && event.target.tagName !== "BUTTON") byId("answer").requestSubmit();
    else return;
    event.preventDefault();
  });
  const unanswered = () => names().find((name) => chosen(name) === null);
  // A digit means the question that the ring stands at, answered or not. A click leaves no ring, though the browser would
  // show one as soon as a key is pressed.
  let clicked = false;
  document.addEventListener("pointerdown", () => { clicked = true; });
  document.addEventListener("keydown", ({ key }) => { if (key === "Tab" || key === " " || key.startsWith("Arrow")) clicked = false; });
  function focused() {
    const name = document.activeElement?.name;
    return !clicked && names().includes(name) ? name : null;
  }
  // the ring goes on to the next question that is open, and stays at the last one, which can be corrected
  function select(name, place) {
    const inputs = (of) => byId("answer").querySelectorAll(`input[name="${of}"]`), input = inputs(name)[place];
    if (input.disabled) return;
    input.checked = true;
    const next = unanswered();
    (next === undefined ? input : inputs(next)[0]).focus();
    clicked = false;
    update();
  }

  // ---------------------------------------------------------------- begin, end

  function advance() {
    if (kept.answers.length < order.length) { present(); return; }
    since = null;
    current = null;
    for (const url of urls) URL.revokeObjectURL(url);
    const content = {
      schema_version: 1, kind: "g4g-study-answers", study: study.study, page: hex(sha256(utf8(definition))), rater: kept.rater,
      started: kept.started, answers: kept.answers,
    };
    const file = { ...content, checksum: hex(hmac(unhex(study.seal), utf8(canonical(content)))) };
    urls = [URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }))];
    byId("save").href = urls[0];
    byId("save").setAttribute("download", `answers-${study.study}-${kept.rater}.json`);
    byId("another").hidden = !kept.saved;
    show("done");
  }
  byId("save").addEventListener("click", (event) => {
    if (overtaken()) { event.preventDefault(); return; }
    kept.saved = true;
    keep();
    byId("saved").textContent = `Your browser was asked to save ${byId("save").getAttribute("download")}: please look whether it is among your downloads. You may save it again.`;
    byId("another").hidden = false;
  });
  function makeWay() {
    if (overtaken()) return;
    tick();
    const { rater, saved, answers } = kept, text = JSON.stringify(kept);
    stored(() => localStorage.setItem(aside(rater), text), { writes: true });
    if (!keeps && !saved && answers.length > 0) {
      byId("held").hidden = false;
      return;
    }
    asking = false;
    kept = null;
    put();
    proceed();
  }
  byId("another").addEventListener("click", makeWay);
  byId("not-me").addEventListener("click", makeWay);
  byId("someone-else").addEventListener("click", makeWay);
  byId("go-on").addEventListener("click", () => {
    if (overtaken()) return;
    asking = false;
    proceed();
  });

  byId("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const rater = byId("rater").value.trim(), fits = /^[A-Za-z0-9_-]{1,32}$/.test(rater);
    byId("rater-error").textContent = fits ? "" : "Please type your code: 1 to 32 letters, digits, - or _.";
    byId("rater").setAttribute("aria-invalid", String(!fits));
    if (!fits) { byId("rater").focus(); return; }
    if (overtaken()) return;
    let before = null;
    stored(() => { before = stateOf(localStorage.getItem(aside(rater))) ?? null; }, { writes: false });
    asking = false;
    kept = before ?? { rater, started: Date.now(), answers: [], ms: 0, saved: false };
    keep();
    proceed();
  });

  // To where the rater stands whose state is kept, or to the beginning.
  function proceed() {
    byId("stage").replaceChildren(); // a clip that plays falls silent
    if (kept && asking) {
      since = null;
      current = null;
      for (const node of document.querySelectorAll(".rater")) node.textContent = kept.rater;
      byId("so-far").textContent = `${kept.answers.length} of ${study.trials.length}`;
      show("back");
      return;
    }
    if (kept) {
      shuffle();
      advance();
      return;
    }
    since = null;
    current = null;
    byId("saved").textContent = "";
    byId("rater").value = "";
    show("intro");
  }

  const root = document.documentElement, system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const nameTheme = () => { byId("theme").textContent = isDark() ? "Light theme" : "Dark theme"; };
  byId("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  system.addEventListener("change", nameTheme);
  nameTheme();

  // A file that asks Chromium (150) for its storage before the browser has noted that this page is open gets one that is
  // empty and stays cut off, in up to 9 of 100 reloads if it asks at once. What is asked about locks is answered after
  // that. Pages that come over plain http have no locks, nor that fault.
  async function open() {
    const answer = navigator.locks?.query().catch(() => {}); // a browser that refuses has answered, too
    await Promise.race([answer, new Promise((late) => { setTimeout(late, 5000); })]);
    // whether writing is allowed is tried beside what is kept: another tab may be writing that
    stored(() => { read(); localStorage.setItem(`${slot}-tried`, ""); localStorage.removeItem(`${slot}-tried`); }, { writes: true });
    kept = stateOf(known) ?? null;
    // who reloads is who sat here; who opens the page may be somebody else
    asking = performance.getEntriesByType("navigation")[0]?.type === "navigate";
    window.addEventListener("storage", overtaken);
    document.addEventListener("visibilitychange", seenOrHidden);
    window.addEventListener("pagehide", tick);
    proceed();
  }
  open();
})();
