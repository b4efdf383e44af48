// GraphiQL's page: who asks (token), how queries go (POST) and how subscriptions go (graphql-transport-ws).
// No framework and no build step; GraphiQL itself comes from the npm lock beside this file.
(function (global) {
  "use strict";

  const REALTIME = "/graphql/realtime";

  function operationOf(params, options) {
    const definitions = ((options && options.documentAST) || { definitions: [] }).definitions.filter((d) => d.kind === "OperationDefinition");
    const named = definitions.find((d) => d.name && d.name.value === params.operationName);
    return named || definitions[0];
  }

  // A query or mutation: the token goes raw in the header, as Amplify sends it, never in a URL.
  async function post(origin, token, params) {
    const answer = await fetch(`${origin}/graphql`, {
      method: "POST",
      credentials: "omit",
      headers: { "content-type": "application/json; charset=UTF-8", ...(token ? { authorization: token } : {}) },
      body: JSON.stringify({ query: params.query, variables: params.variables || {}, operationName: params.operationName || null }),
    });
    return answer.json();
  }

  // A subscription as an async iterable; one socket each, closed when the iteration ends.
  function subscribe(origin, token, params) {
    const waiting = [];
    const arrived = [];
    let done = false;
    const settle = (item) => (waiting.length ? waiting.shift()(item) : arrived.push(item));
    const finish = (value) => {
      if (done) return;
      if (value !== undefined) settle({ value, done: false });
      done = true;
      settle({ value: undefined, done: true });
    };
    const socket = new WebSocket(origin.replace(/^http/, "ws") + REALTIME, "graphql-transport-ws");
    const send = (message) => socket.send(JSON.stringify(message));
    socket.onopen = () => send({ type: "connection_init", payload: token ? { Authorization: token } : {} });
    socket.onclose = (event) => finish(event.code === 1000 ? undefined : { errors: [{ message: `The socket was closed: ${event.code} ${event.reason}` }] });
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "connection_ack") send({ id: "1", type: "subscribe", payload: params });
      else if (message.type === "ping") send({ type: "pong" });
      else if (message.type === "next") settle({ value: message.payload, done: false });
      else if (message.type === "error") { finish({ errors: message.payload }); socket.close(1000); }
      else if (message.type === "complete") { finish(); socket.close(1000); }
    };
    return {
      [Symbol.asyncIterator]() { return this; },
      next: () => (arrived.length ? Promise.resolve(arrived.shift()) : done ? Promise.resolve({ value: undefined, done: true }) : new Promise((resolve) => waiting.push(resolve))),
      return: () => { finish(); socket.close(1000); return Promise.resolve({ value: undefined, done: true }); },
    };
  }

  function fetcher(origin, tokenOf) {
    return (params, options) => {
      const operation = operationOf(params, options);
      return operation && operation.operation === "subscription" ? subscribe(origin, tokenOf(), params) : post(origin, tokenOf(), params);
    };
  }

  function picker(people, changed) {
    const bar = document.getElementById("who");
    if (people.length) {
      const select = document.createElement("select");
      for (const person of people) select.append(new Option(`${person.handle}: ${person.name}`, person.token));
      select.selectedIndex = Math.max(0, people.findIndex((person) => person.handle === sessionStorage.getItem("handle")));
      select.onchange = () => { sessionStorage.setItem("handle", people[select.selectedIndex].handle); changed(select.value); };
      bar.append("Ask as ", select);
      changed(select.value);
    } else {
      const input = Object.assign(document.createElement("input"), { type: "password", placeholder: "access token", autocomplete: "off", size: 40 });
      input.oninput = () => changed(input.value.trim());
      bar.append("Ask with ", input);
    }
  }

  function start() {
    const config = JSON.parse(document.getElementById("config").textContent);
    let token = "";
    picker(config.people, (value) => { token = value; });
    self.MonacoEnvironment = { globalAPI: false, getWorkerUrl: (_, label) => `/graphiql/${{ graphql: "graphql", json: "json" }[label] || "editor"}.worker.js` };
    global.YogaGraphiQL.renderYogaGraphiQL(document.getElementById("root"), {
      title: "Countersign",
      logo: "",
      fetcher: fetcher(location.origin, () => token),
      defaultTabs: config.tabs,
      shouldPersistHeaders: false,
      isHeadersEditorEnabled: false,
      onEditQuery: () => {}, // its own would write the query into the address
    });
  }

  global.Countersign = { fetcher };
  if (typeof document !== "undefined" && document.getElementById("config")) start();
})(globalThis);
