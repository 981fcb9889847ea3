// Sets the colour scheme before the page is drawn, so a classic script and not a module.
(() => {
  const looks = ["auto", "light", "dark"];
  let look = localStorage.getItem("gritlm.look");
  const show = () => {
    if (!looks.includes(look)) look = "auto";
    document.documentElement.dataset.look = look;
    const button = document.getElementById("look");
    if (button) button.setAttribute("aria-label", `Colours: ${look}. Change`);
    if (button) button.title = `Colours: ${look}`;
  };
  show();
  addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("look").addEventListener("click", () => {
      look = looks[(looks.indexOf(look) + 1) % looks.length];
      localStorage.setItem("gritlm.look", look);
      show();
    });
  });
})();
