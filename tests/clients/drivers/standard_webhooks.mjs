// {messages: [{secret, headers, body}]} in; out {good: [bool]}: whether Standard Webhooks' own library takes each.
import { Webhook } from "standardwebhooks";
import { readFileSync } from "node:fs";

const { messages } = JSON.parse(readFileSync(0, "utf8"));
const good = messages.map(({ secret, headers, body }) => {
  try {
    new Webhook(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
});
console.log(JSON.stringify({ good }));
