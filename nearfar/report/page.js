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
      "modebar.bgcolor": "rgba(0,0,0,0)",
      "modebar.color": colour("--line"),
      "modebar.activecolor": colour("--soft"),
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
      await Plotly.newPlot(plot, figure.data, figure.layout, {
        displaylogo: false,
        responsive: true,
        // Plotly's default has a button that uploads the figure's data.
        showSendToCloud: false,
        plotlyServerURL: "",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
      });
      await Plotly.relayout(plot, themed(figure.layout));
    }
    dark.addEventListener("change", () => plots.forEach((plot) => Plotly.relayout(plot, themed(plot.layout))));
    document.documentElement.dataset.drawn = "yes";
  }
  draw();
})();
