// The page of the API: Swagger UI over the schema, with the key of this tab.

import { call, key } from "./api.js";
import { $ } from "./dom.js";
import { translatePage } from "./language.js";
import { showTrouble } from "./trouble.js";
import { startKey } from "./unlock.js";

const withKey = (request) => {
  if (key.get()) request.headers.Authorization = `Bearer ${key.get()}`;
  return request;
};

const show = async () => {
  $("key").hidden = !key.get();
  $("docs-trouble").replaceChildren();
  try {
    const schema = await call("openapi.json");
    $("key").hidden = !key.get();
    // Below a path of a proxy, the routes are there too.
    const servers = [{ url: new URL(".", document.baseURI).href.replace(/\/$/, "") }];
    SwaggerUIBundle({
      spec: { ...schema, servers },
      domNode: $("api"),
      deepLinking: true,
      docExpansion: "list",
      defaultModelsExpandDepth: 0,
      validatorUrl: null,
      requestInterceptor: withKey,
    });
  } catch (error) {
    showTrouble($("docs-trouble"), error, show);
  }
};

translatePage();
startKey(show);
show();
