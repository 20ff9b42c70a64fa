(() => {
  const pick = id => document.getElementById(id);
  const list = pick("cards"), cards = [...list.children];
  const FIRST = 12;
  let paused = matchMedia("(prefers-reduced-motion: reduce)").matches, limit = FIRST;
  const told = new Map(cards.map(card => [card, {
    scores: JSON.parse(card.dataset.scores), ranks: JSON.parse(card.dataset.ranks), of: +card.dataset.of,
    video: card.querySelector("video"), button: card.querySelector(".play"), line: card.querySelector(".rank"),
  }]));
  const seen = new Set(), stopped = new Set();

  // films play while they are on the screen, unless all are paused or this one was stopped
  const settle = card => {
    const { video } = told.get(card);
    if (!paused && seen.has(card) && !stopped.has(card)) video.play().catch(() => {}); else video.pause();
  };
  const watch = new IntersectionObserver(entries => entries.forEach(entry => {
    const card = entry.target.closest(".card");
    if (entry.isIntersecting) seen.add(card); else seen.delete(card);
    settle(card);
  }), { rootMargin: "80px" });
  cards.forEach(card => {
    const { video, button } = told.get(card);
    const toggle = () => {
      if (video.paused) { stopped.delete(card); video.play().catch(() => {}); } else { stopped.add(card); video.pause(); }
    };
    const name = () => {
      button.textContent = video.paused ? "Play" : "Pause";
      button.setAttribute("aria-label", button.textContent + " " + button.dataset.clip);
    };
    button.hidden = false;
    button.addEventListener("click", toggle);
    video.addEventListener("click", toggle);
    video.addEventListener("play", name);
    video.addEventListener("pause", name);
    name();
    watch.observe(video);
  });

  const openers = [...document.querySelectorAll("video.opener")];
  const open = () => openers.forEach(video => { if (paused) video.pause(); else video.play().catch(() => {}); });
  open();

  const all = pick("play");
  const label = () => { all.textContent = paused ? "Play all" : "Pause all"; };
  all.addEventListener("click", () => { paused = !paused; if (!paused) stopped.clear(); label(); open(); cards.forEach(settle); });

  const KEYS = {
    mixed: card => +card.dataset.order,
    movie: card => +card.dataset.clip,
    best: (card, metric) => told.get(card).ranks[metric],
    median: (card, metric) => Math.abs(told.get(card).ranks[metric] - (told.get(card).of + 1) / 2),
    worst: (card, metric) => -told.get(card).ranks[metric],
  };
  const arrange = () => {
    const metric = pick("metric").value, title = pick("metric").selectedOptions[0].text, order = pick("order").value;
    const experiment = pick("experiment").value, subject = pick("subject").value;
    const key = card => KEYS[order](card, metric);
    list.append(...[...cards].sort((a, b) => key(a) - key(b) || a.dataset.order - b.dataset.order));
    let matching = 0, shown = 0;
    for (const card of list.children) {
      const fits = (!experiment || card.dataset.experiment === experiment) && (!subject || card.dataset.subject === subject);
      matching += fits;
      card.hidden = !fits || matching > limit;
      shown += !card.hidden;
      const { scores, ranks, of, line } = told.get(card), value = scores[metric];
      line.textContent = title + ": " + (value === null ? "none" : value.toFixed(3).replace("-", "−")) + ", rank " + ranks[metric] + " of " + of;
    }
    pick("count").textContent = (shown === matching ? shown : shown + " of " + matching) + (matching === 1 ? " clip" : " clips");
    pick("more").hidden = shown === matching;
    pick("more").textContent = "Show all " + matching + " clips";
  };
  ["metric", "order", "experiment", "subject"].forEach(id => pick(id).addEventListener("change", arrange));
  pick("more").addEventListener("click", () => {
    const next = [...list.children].find(card => card.hidden);
    limit = Infinity;
    arrange();
    if (next && !next.hidden) told.get(next).button.focus();
  });

  // a wide table or figure is a stop of the keyboard only where it scrolls
  const reachable = () => document.querySelectorAll(".scroll").forEach(box => {
    const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    if (scrolls) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  addEventListener("resize", reachable);
  document.querySelectorAll("details").forEach(part => part.addEventListener("toggle", reachable));

  pick("controls").hidden = false;
  label();
  arrange();
  reachable();
})();
