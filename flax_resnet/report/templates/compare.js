// The parts of a comparison: curves of all runs, and photos on which they disagree.

if (byId("curves")) curvesPanel(byId("curves"), data.runs);

if (byId("photos")) byId("photos").append(element("div", { class: "photos" },
  ...data.photos.map((photo) => {
    const image = element("img", { src: photo.src, alt: photo.n });
    image.addEventListener("load", () =>
      image.classList.toggle("small", image.naturalWidth < 72));
    return element("figure", { class: "plain", title: photo.n },
      element("div", { class: "frame" }, image),
      element("figcaption", {}, text(photo.true), ...photo.guesses.map(([run, name, p, right]) =>
        element("span", {}, text(run), right ? " ✓ " : " ✗ ", text(name), " " + percent(p, 0)))));
  })));
