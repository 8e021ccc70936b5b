// A Plotly figure, drawn by the page's one copy of plotly.js. (Streamlit's own chart brings another
// 4.7 MB, which a browser has to read before it shows the first bar.)

class Chart {
  constructor(parent) {
    this.plot = make(parent, 'div', 'chart');
    this.figure = null;
    this.width = 0;
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.plot);
  }

  async show({ figure, plotly }) {
    if (figure === this.figure) return;
    this.figure = figure;
    const { data, layout } = JSON.parse(figure);
    this.plot.style.height = `${layout.height ?? 300}px`;
    const Plotly = await loadPlotly(plotly, () => this.send({ type: 'loader' }));
    if (this.figure !== figure) return;    // overtaken by a newer figure, or gone
    this.width = Math.floor(this.plot.clientWidth);
    const isFirst = !this.plot.data;
    await Plotly.react(this.plot, data, { ...layout, width: this.width || undefined },
      { displayModeBar: false });
    if (this.figure === null) return;    // it left the page while it was drawn
    if (isFirst) {
      this.plot.on('plotly_click', ({ points: [point] }) => {
        if (typeof point?.x === 'number') this.send({ type: 'point', x: point.x });
      });
    }
    this.fit();
  }

  fit() {
    const width = Math.floor(this.plot.clientWidth);
    if (!this.plot.data || !width || Math.abs(width - this.width) < 2) return;
    this.width = width;
    Plotly.relayout(this.plot, { width });
  }

  destroy() {
    this.figure = null;
    this.observer.disconnect();
    globalThis.Plotly?.purge(this.plot);
    this.plot.remove();
  }
}

export default function (component) {
  return keepAlive(component, element => new Chart(element));
}
