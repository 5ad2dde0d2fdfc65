// Evaluates compiled expressions for the runner: one JSON message a line in, one out. Variables live here between the
// messages of a request, as the C# objects that they are.
//
//   {"op": "evaluate", "request": R, "expression": N, "context": {...}}   -> {"value": ...}
//   {"op": "assign", ... and "variable": NAME}                            -> {} ; without "expression": "value"
//   {"op": "token", "request": R, "variable": NAME, "header": {...}, "claims": {...}} -> {}
//   {"op": "end", "request": R}                                           -> {}
//
// Each answer names in "consumed" the bodies that the expression has used up, and in "error" what it has thrown.

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Reflection;
using System.Text;
using Newtonsoft.Json;
using Newtonsoft.Json.Linq;

internal static class Evaluator
{
    private static readonly Dictionary<string, ProxyContext> contexts = new Dictionary<string, ProxyContext>();

    private static void Main()
    {
        var utf8 = new UTF8Encoding(false);
        var input = new StreamReader(Console.OpenStandardInput(), utf8);
        var output = new StreamWriter(Console.OpenStandardOutput(), utf8) { AutoFlush = true };
        output.WriteLine("{}"); // ready
        string line;
        while ((line = input.ReadLine()) != null)
        {
            output.WriteLine(Answer(Read(line)).ToString(Formatting.None));
        }
    }

    private static JObject Read(string line)
    {
        // Texts that look like dates stay texts.
        using (var reader = new JsonTextReader(new StringReader(line)) { DateParseHandling = DateParseHandling.None })
        {
            return JObject.Load(reader);
        }
    }

    private static JObject Answer(JObject message)
    {
        var id = (string)message["request"];
        if ((string)message["op"] == "end")
        {
            contexts.Remove(id);
            return new JObject();
        }
        ProxyContext context;
        if (!contexts.TryGetValue(id, out context)) contexts[id] = context = new ProxyContext();
        try
        {
            return Perform(message, context);
        }
        catch (Exception thrown)
        {
            var error = thrown is TargetInvocationException ? thrown.InnerException : thrown;
            return new JObject { { "error", error.GetType().Name + ": " + error.Message } };
        }
    }

    private static JObject Perform(JObject message, ProxyContext context)
    {
        var variable = (string)message["variable"];
        if ((string)message["op"] == "token")
        {
            context.variables[variable] = ReadToken((JObject)message["header"], (JObject)message["claims"]);
            return new JObject();
        }
        if (message["expression"] == null)
        {
            context.variables[variable] = ((JValue)message["value"]).Value;
            return new JObject();
        }
        Fill(context, (JObject)message["context"]);
        var method = typeof(Expressions).GetMethod("Expression" + (int)message["expression"]);
        var value = method.Invoke(null, new object[] { context });
        var answer = new JObject { { "consumed", Consumed(context) } };
        if (variable != null) context.variables[variable] = value;
        else answer["value"] = Write(value);
        return answer;
    }

    private static JToken Write(object value)
    {
        var bytes = value as byte[];
        if (bytes != null) return new JObject { { "base64", Convert.ToBase64String(bytes) } };
        if (value == null || value is string || value is bool || value is int || value is long) return new JValue(value);
        throw new InvalidOperationException("An expression here must not return a " + value.GetType().Name + ".");
    }

    private static JArray Consumed(ProxyContext context)
    {
        var consumed = new JArray();
        if (IsConsumed(context.Request.Body)) consumed.Add("request");
        if (context.Response != null && IsConsumed(context.Response.Body)) consumed.Add("response");
        return consumed;
    }

    private static bool IsConsumed(IMessageBody body) { return body != null && ((MessageBody)body).IsConsumed; }

    private static void Fill(ProxyContext context, JObject read)
    {
        context.RequestId = Guid.Parse((string)read["requestId"]);
        context.Api = read["api"].ToObject<Api>();
        context.Operation = read["operation"].ToObject<Operation>();
        context.Product = read["product"].ToObject<Product>();
        context.Subscription = read["subscription"].ToObject<Subscription>();
        context.LastError = read["lastError"].ToObject<LastError>();
        context.Response = ReadResponse(read["response"] as JObject);
        var request = (JObject)read["request"];
        context.Request = new Request
        {
            Method = (string)request["method"],
            IpAddress = (string)request["ipAddress"],
            Headers = ReadLists((JObject)request["headers"], StringComparer.OrdinalIgnoreCase),
            MatchedParameters = request["matchedParameters"].ToObject<Dictionary<string, string>>(),
            Url = ReadUrl((JObject)request["url"]),
            OriginalUrl = ReadUrl((JObject)request["originalUrl"]),
            Body = ReadBody(request["body"]),
        };
    }

    private static Response ReadResponse(JObject read)
    {
        return read == null ? null : new Response
        {
            StatusCode = (int)read["statusCode"],
            StatusReason = (string)read["statusReason"],
            Headers = ReadLists((JObject)read["headers"], StringComparer.OrdinalIgnoreCase),
            Body = ReadBody(read["body"]),
        };
    }

    private static Url ReadUrl(JObject read)
    {
        return new Url
        {
            Scheme = (string)read["scheme"],
            Host = (string)read["host"],
            Port = (int)read["port"],
            Path = (string)read["path"],
            QueryString = (string)read["queryString"],
            Query = ReadLists((JObject)read["query"], StringComparer.Ordinal),
        };
    }

    private static Jwt ReadToken(JObject header, JObject claims)
    {
        var lists = new Dictionary<string, string[]>();
        foreach (var claim in claims)
        {
            var many = claim.Value as JArray;
            lists[claim.Key] = many == null ? new[] { claim.Value.ToString() } : many.Select(one => one.ToString()).ToArray();
        }
        return new Jwt
        {
            Algorithm = (string)header["alg"],
            Type = (string)header["typ"],
            Audiences = lists.ContainsKey("aud") ? lists["aud"] : new string[0],
            Claims = lists,
            Id = (string)claims["jti"],
            Issuer = (string)claims["iss"],
            Subject = (string)claims["sub"],
            ExpirationTime = ReadTime(claims["exp"]),
            NotBefore = ReadTime(claims["nbf"]),
        };
    }

    private static DateTime? ReadTime(JToken seconds)
    {
        if (seconds == null) return null;
        return new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc).AddSeconds((double)seconds);
    }

    private static MessageBody ReadBody(JToken body)
    {
        if (body.Type == JTokenType.Null) return null;
        return new MessageBody(body["base64"] == null ? null : Convert.FromBase64String((string)body["base64"]));
    }

    private static IReadOnlyDictionary<string, string[]> ReadLists(JObject read, StringComparer comparer)
    {
        var lists = new Dictionary<string, string[]>(comparer);
        foreach (var entry in read) lists[entry.Key] = entry.Value.ToObject<string[]>();
        return lists;
    }
}
