// Says so while the server does not answer, and that nothing is lost.
() => {
  const health = new URL("../healthz", document.baseURI.endsWith("/") ? document.baseURI : `${document.baseURI}/`);
  const look = async () => {
    let here = false;
    try { here = (await fetch(health, { cache: "no-store" })).ok; } catch { here = false; }
    let gone = document.getElementById("gone");
    if (here) { if (gone) gone.remove(); return; }
    if (gone) return;
    gone = document.createElement("div");
    gone.id = "gone";
    gone.setAttribute("role", "alert");
    gone.textContent = "The server does not answer. Your versions are kept; the page goes on when it is back.";
    document.body.append(gone);
  };
  setInterval(look, 3000);
}
