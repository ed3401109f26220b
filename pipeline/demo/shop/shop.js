"use strict";
// The shop's pages. What a customer does is told to the tracker by one call each; the rest is a plain shop.

const products = JSON.parse(document.getElementById("products").textContent);
const { page, name } = document.body.dataset;
const find = (sku) => products.find((product) => product.sku === sku);
const $ = (selector) => document.querySelector(selector);

const kept = (key, fallback) => JSON.parse(localStorage.getItem("shop." + key)) ?? fallback;
const keep = (key, value) => localStorage.setItem("shop." + key, JSON.stringify(value));
const cart = () => kept("cart", {});
const favourites = () => kept("favourites", []);
const money = (amount) => "€ " + amount.toFixed(2);
const total = () => Object.entries(cart()).reduce((sum, [sku, quantity]) => sum + find(sku).price * quantity, 0);

/** A product as the event catalogue describes it. */
const told = (sku, quantity = 1) => {
  const { name, category, price } = find(sku);
  return { product_id: sku, sku, name, category, price, currency: "EUR", quantity };
};

const picture = ({ category, colour }) =>
  `<div class="picture" style="--tone:${colour}"><svg><use href="#${category}"></use></svg></div>`;
const item = (product) => `<a class="item" href="/product/${product.sku}">${picture(product)}
  <div><strong>${product.name}</strong><small>${product.category}</small>${money(product.price)}</div></a>`;
const grid = (some) => ($("#grid").innerHTML = some.map(item).join("") || "<p>Nothing here yet.</p>");

const showOwn = () => {
  const quantities = Object.values(cart()).reduce((sum, quantity) => sum + quantity, 0);
  $("#cart-count").textContent = quantities || "";
  $("#favourite-count").textContent = favourites().length || "";
  const user = kept("user", null);
  const account = $("#account");
  account.textContent = user ? `Sign out ${user}` : "Sign in";
  account.onclick = user && ((click) => {
    click.preventDefault();
    keep("user", null);
    headrace.reset();
    showOwn();
  });
};

const showCart = () => {
  const lines = Object.entries(cart());
  $("#lines").innerHTML = lines.map(([sku, quantity]) => `<div class="row"><span>${find(sku).name} × ${quantity}</span>
    ${money(find(sku).price * quantity)} <button class="button plain" data-remove="${sku}">Remove</button></div>`).join("") +
    (lines.length ? `<div class="row sum"><span>Total</span>${money(total())}</div>
      <a class="button" href="/checkout">Checkout</a>` : "<p>The cart is empty.</p>");
  for (const button of document.querySelectorAll("[data-remove]")) button.onclick = () => {
    const { [button.dataset.remove]: quantity, ...others } = cart();
    keep("cart", others);
    headrace.removeFromCart(told(button.dataset.remove, quantity));
    showCart();
    showOwn();
  };
};

const showProduct = () => {
  const product = find(name);
  const marked = favourites().includes(name);
  $("#product").innerHTML = `${picture(product)}<div>
    <a class="crumb" href="/category/${product.category.toLowerCase()}">${product.category}</a>
    <h1>${product.name}</h1><p>${product.text}</p><div class="price">${money(product.price)}</div>
    <button class="button" id="add">Add to cart</button>
    <button class="button plain" id="favourite">${marked ? "♥ A favourite" : "♡ Favourite"}</button></div>`;
  $("#add").onclick = () => {
    keep("cart", { ...cart(), [name]: (cart()[name] ?? 0) + 1 });
    headrace.addToCart(told(name));
    showOwn();
  };
  $("#favourite").onclick = () => {
    keep("favourites", marked ? favourites().filter((sku) => sku !== name) : [...favourites(), name]);
    marked ? headrace.removeFromFavourites(told(name)) : headrace.addToFavourites(told(name));
    showProduct();
    showOwn();
  };
};

/** `tell`: login or register, as the tracker calls them. */
const account = (form, tell) => {
  form.onsubmit = (submit) => {
    submit.preventDefault();
    const user = form.elements.user.value.trim();
    if (!user) return;
    keep("user", user);
    tell(user, { name: user, ...(form.elements.email && { email: form.elements.email.value }) });
    form.innerHTML = `<h1></h1><p>You are signed in.</p><a class="button" href="/">To the shop</a>`;
    form.querySelector("h1").textContent = `Hello, ${user}`;
    showOwn();
  };
};

const showCheckout = () => {
  const box = $("#checkout");
  const lines = Object.entries(cart());
  box.innerHTML = `<h1>Checkout</h1><p>${lines.length ? `${lines.length} products, ${money(total())}` : "The cart is empty."}</p><br>`;
  if (!lines.length) return;
  box.insertAdjacentHTML("beforeend", `<button class="button" id="order">Place the order</button>`);
  $("#order").onclick = () => {
    const order = {
      order_id: `M-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36).toUpperCase()}`,
      total: total(),
      currency: "EUR",
      products: lines.map(([sku, quantity]) => told(sku, quantity)),
    };
    keep("cart", {});
    headrace.order(order);
    box.innerHTML = `<h1>Thank you</h1><p>Your order ${order.order_id} is in.</p>`;
    showOwn();
  };
};

const pages = {
  home() {
    const sections = [...new Set(products.flatMap((product) => product.sections))];
    $("#sections").innerHTML = sections.map((section) =>
      `<a href="/section/${section.toLowerCase().replace(" ", "-")}">${section} →</a>`).join("");
    grid(products.filter((product) => product.sections.includes("New in")));
  },
  section() {
    headrace.section(name);
    grid(products.filter((product) => product.sections.includes(name)));
  },
  category() {
    headrace.category(name);
    grid(products.filter((product) => product.category === name));
  },
  product() {
    headrace.product(told(name));
    showProduct();
  },
  cart: showCart,
  favourites: () => grid(favourites().map(find)),
  login: () => account($("#login"), (user, traits) => headrace.login(user, traits)),
  register: () => account($("#register"), (user, traits) => headrace.register(user, traits)),
  checkout: showCheckout,
};

pages[page]?.();
showOwn();

/** What Headrace counts right now, in the corner. */
const live = async () => {
  try {
    const rows = await (await fetch("/live")).json();
    $("#live tbody").replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      line.append(...[row.name, row.here, row.all].map((text) => {
        const cell = document.createElement("td");
        cell.textContent = text;
        return cell;
      }));
      return line;
    }));
    $("#live").hidden = !rows.length;
  } catch {
    $("#live").hidden = true;
  }
  setTimeout(live, document.hidden ? 5000 : 1000);
};
live();
