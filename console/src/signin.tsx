/** Shown while nobody is signed in: what is asked for, and where to find it. */

import { useSignal } from "@preact/signals";
import { signIn, signingIn, signInProblem, signInWith, slow } from "./api";

export function SignIn() {
  const key = useSignal("");
  const submit = (event: SubmitEvent) => {
    event.preventDefault();
    if (key.value.trim()) void signInWith(key.value.trim());
    key.value = "";
  };
  return (
    <main id="content" class="boot">
      <h1>Task Backbone</h1>
      {signingIn.value ? (
        <p role="status">
          Asking the server who you are …{slow.value && " After an idle time the app takes up to half a minute to start."}
        </p>
      ) : (
        <>
          {signInProblem.value && (
            <div class="trouble" role="alert">
              {signInProblem.value} <button type="button" onClick={() => void signIn()}>Ask again</button>
            </div>
          )}
          <form class="card stack" onSubmit={submit}>
            <label>
              Key of a console function
              <input type="password" required autocomplete="off" spellcheck={false} value={key.value}
                onInput={(event) => (key.value = event.currentTarget.value)} />
            </label>
            <p class="small dim">It stays in this tab, goes into a header of each request, and is forgotten when the tab is closed.</p>
            <div class="answers"><button type="submit" class="primary">Sign in</button></div>
          </form>
          <h2>Where to find one</h2>
          <p>On your machine, <code>python3 dev.py up</code> prints a link that opens this page signed in. In Azure, take
            the key of one function, by what you want to do:</p>
          <dl class="facts">
            <div><dt><code>ConsoleRead</code></dt><dd>see queues and tasks</dd></div>
            <div><dt><code>ConsoleContent</code></dt><dd>see bodies and results too</dd></div>
            <div><dt><code>ConsoleOperate</code></dt><dd>submit, cancel, replay, pause, limit too</dd></div>
          </dl>
          <pre>az functionapp function keys list --function-name ConsoleRead --name APP --resource-group GROUP</pre>
          <p class="small dim">Do not use a key of the host: it opens every function. Behind API Management, the key is that of a
            subscription to the operators' product. Where a gateway or the platform signs people in, no key is needed:
            sign in there, then load this page again.</p>
        </>
      )}
    </main>
  );
}
