(() => {
  const shown = selector => [...document.querySelectorAll(selector)].filter(e => e.checkVisibility());
  const told = elements => elements.map(e => e.outerHTML.slice(0, 100));

  const parse = text => { const n = text.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      layers.push(parse(getComputedStyle(e).backgroundColor));
      if (layers.at(-1)[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };

  // texts whose colour is too near to what lies behind them (WCAG 2: 4.5, for large type 3)
  const pale = () => {
    const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let seen = 0;
    while (walk.nextNode()) {
      const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
      if (!text || !element.checkVisibility() || element.closest("script, style, select")) continue;
      const style = getComputedStyle(element), back = behind(element), ink = over(parse(style.color), back);
      const [a, b] = [light(ink), light(back)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
      const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
      seen++;
      if (ratio < (large ? 3 : 4.5)) found.push(`${text.slice(0, 40)}: ${ratio.toFixed(2)}`);
    }
    return { seen, found };
  };

  // what a screen reader could not name
  const nameless = () => told(shown("a, button, select, summary, video, table, img, nav, [role=group]").filter(e => {
    const ids = (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean);
    const labels = ids.map(id => document.getElementById(id)?.textContent || "").join(" ");
    const own = e.matches("table, [role=group]") ? "" : e.closest("label")?.textContent || e.textContent;
    return !(e.getAttribute("aria-label") || labels || e.alt || own).trim();
  }));

  // what a finger would miss (WCAG 2.2: 24 pixels)
  const small = () => told(shown("button, select, summary, nav a").filter(e => {
    const box = e.getBoundingClientRect();
    return box.width < 24 || box.height < 24;
  }));

  // what reaches over the right edge of the window, but for what scrolls in a box of its own
  const wide = () => told(shown("body *").filter(
    e => !e.closest(".scroll > *, nav ul, .hidden, .skip") && e.getBoundingClientRect().right > innerWidth + 1));

  return { ...pale(), nameless: nameless(), small: small(), wide: wide(),
           across: document.documentElement.scrollWidth };
})()
