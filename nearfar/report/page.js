"use strict";
(function () {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const plots = Array.from(document.querySelectorAll(".plot"));
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function themed(layout) {
    const changes = {
      "font.color": colour("--text"),
      "hoverlabel.bgcolor": colour("--card"),
      "hoverlabel.bordercolor": colour("--line"),
      "hoverlabel.font.color": colour("--text"),
      "legend.bgcolor": "rgba(0,0,0,0)",
    };
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis\d*$/.test(name))) {
      changes[key + ".gridcolor"] = colour("--line");
      changes[key + ".zerolinecolor"] = colour("--soft");
      changes[key + ".linecolor"] = colour("--line");
      changes[key + ".tickcolor"] = colour("--soft");
    }
    return changes;
  }

  async function draw() {
    for (const plot of plots) {
      const source = plot.querySelector('script[type="application/json"]');
      const figure = JSON.parse(source.textContent);
      plot.replaceChildren();
      await Plotly.newPlot(plot, figure.data, figure.layout, { displaylogo: false, responsive: true });
      await Plotly.relayout(plot, themed(figure.layout));
    }
    dark.addEventListener("change", () => plots.forEach((plot) => Plotly.relayout(plot, themed(plot.layout))));
    document.documentElement.dataset.drawn = "yes";
  }
  draw();
})();
