"""An emulator of one Azure Event Grid custom topic: publishing, retries, dead letters, and faults on demand.

``python -m local.event_grid --port 0 --topic NAME --key KEY [--data-dir DIR]
[--dead-letter-connection-string CONN] [--time-scale X]`` listens on the loopback interface only.

**Publish** to ``POST /<topic>/api/events?api-version=2018-01-01`` with ``aeg-sas-key`` or ``aeg-sas-token``, as the
Azure SDKs do: give them the endpoint ``http://127.0.0.1:<port>/<topic>/api/events``. The content type says which
schema a batch has. The emulator always delivers as CloudEvents what was published as CloudEvents. It delivers Event
Grid events in the schema of the subscription. It refuses Entra tokens (401), because nothing here could verify them.
An answer of 200 means that the events are in the journal: with a data directory they survive ``kill -9``.

**Control**, as JSON and without authentication (so never expose the port):

``PUT /control/topics/<topic>/subscriptions/<name>``
    Creates or changes a subscription, see `SubscriptionSettings`, and starts the handshake. The emulator repeats the
    handshake until it succeeds. Only then does a changed endpoint or schema take over. A subscription gets no events
    that were published before.
``GET`` the same
    Returns ``state`` (``AwaitingManualAction`` or ``Active``), why the last handshake failed, and the settings. It
    leaves out the query of the endpoint and the values of delivery headers, which are secrets.
``DELETE`` the same
    Ends the subscription and drops the events that are on their way to it. The endpoint is informed once.
``GET /control/topics/<topic>/subscriptions/<name>/validate?code=``
    The validation URL of the handshake, for validation by hand.
``GET /control/stats``
    Counters since the start, and how many deliveries are pending, see `Stats`.
``POST /control/faults``
    Replaces all fault switches, see `Faults`; ``{}`` turns them off.
``POST /control/drain``
    ``{"timeoutSeconds": 10}``: waits until nothing is due or under way (``{"drained": true}``) or the time is up.
``POST /control/clock/advance``
    ``{"seconds": n}``: moves a manual clock, in one jump; 409 for a running clock.

**Time.** ``--time-scale 60`` lets an hour of retry schedule, time to live and dead lettering pass in a minute.
``--time-scale 0`` stops the clock; only ``/control/clock/advance`` then moves it. The 30 s that a subscriber has to
answer are real seconds, except under a stopped clock.

If Microsoft documents no number, the number in `delivery` is inferred. Not emulated: the throughput limits of the
service, domains, advanced filters, and custom input schemas.
"""
