// What a policy expression sees: the types of API Management's `context`, by their names and members there.

using System;
using System.Collections.Generic;
using System.Linq;
using System.Text;
using Newtonsoft.Json.Linq;

public interface IProxyContext
{
    IApi Api { get; }
    IDeployment Deployment { get; }
    TimeSpan Elapsed { get; }
    ILastError LastError { get; }
    IOperation Operation { get; }
    IProduct Product { get; }
    IRequest Request { get; }
    Guid RequestId { get; }
    IResponse Response { get; }
    ISubscription Subscription { get; }
    DateTime Timestamp { get; }
    IReadOnlyDictionary<string, object> Variables { get; }
}

public interface IApi { string Id { get; } string Name { get; } string Path { get; } }

public interface IDeployment { string GatewayId { get; } string Region { get; } string ServiceName { get; } }

public interface ILastError
{
    string Message { get; }
    string Reason { get; }
    string Section { get; }
    string Source { get; }
}

public interface IMessageBody
{
    T As<T>(bool preserveContent = false);
}

public interface IOperation { string Id { get; } string Method { get; } string Name { get; } string UrlTemplate { get; } }

public interface IProduct { string Id { get; } string Name { get; } }

public interface IRequest
{
    IMessageBody Body { get; }
    IReadOnlyDictionary<string, string[]> Headers { get; }
    string IpAddress { get; }
    IReadOnlyDictionary<string, string> MatchedParameters { get; }
    string Method { get; }
    IUrl OriginalUrl { get; }
    IUrl Url { get; }
}

public interface IResponse
{
    IMessageBody Body { get; }
    IReadOnlyDictionary<string, string[]> Headers { get; }
    int StatusCode { get; }
    string StatusReason { get; }
}

public interface ISubscription { string Id { get; } string Key { get; } string Name { get; } }

public interface IUrl
{
    string Host { get; }
    string Path { get; }
    int Port { get; }
    IReadOnlyDictionary<string, string[]> Query { get; }
    string QueryString { get; }
    string Scheme { get; }
}

public class Jwt
{
    public string Algorithm { get; internal set; }
    public IEnumerable<string> Audiences { get; internal set; }
    public IReadOnlyDictionary<string, string[]> Claims { get; internal set; }
    public DateTime? ExpirationTime { get; internal set; }
    public string Id { get; internal set; }
    public string Issuer { get; internal set; }
    public DateTime? NotBefore { get; internal set; }
    public string Subject { get; internal set; }
    public string Type { get; internal set; }
}

public static class Extensions
{
    public static string GetValueOrDefault(
        this IReadOnlyDictionary<string, string[]> values, string name, string defaultValue = null)
    {
        string[] found;
        return values.TryGetValue(name, out found) ? string.Join(",", found) : defaultValue;
    }

    public static string GetValueOrDefault(
        this IReadOnlyDictionary<string, string> values, string name, string defaultValue = null)
    {
        string found;
        return values.TryGetValue(name, out found) ? found : defaultValue;
    }

    public static T GetValueOrDefault<T>(
        this IReadOnlyDictionary<string, object> values, string name, T defaultValue = default(T))
    {
        object found;
        return values.TryGetValue(name, out found) ? (T)found : defaultValue;
    }
}

// The values behind these types, read from the messages of the runner.

internal sealed class Api : IApi
{
    public string Id { get; set; }
    public string Name { get; set; }
    public string Path { get; set; }
}

internal sealed class Deployment : IDeployment
{
    public string GatewayId { get { return "local"; } }
    public string Region { get { return "local"; } }
    public string ServiceName { get { return "local"; } }
}

internal sealed class LastError : ILastError
{
    public string Message { get; set; }
    public string Reason { get; set; }
    public string Section { get; set; }
    public string Source { get; set; }
}

internal sealed class MessageBody : IMessageBody
{
    private readonly byte[] content;

    /// Null: the runner has not read it, as it saw nothing in the expression that does.
    public MessageBody(byte[] content) { this.content = content; }

    /// Whether an expression has read it without preserving it: then nothing of it is left to send.
    public bool IsConsumed { get; private set; }

    public T As<T>(bool preserveContent = false)
    {
        if (content == null) throw new InvalidOperationException("Write context.Request.Body.As or context.Response.Body.As.");
        if (IsConsumed) throw new InvalidOperationException("The body was read before, without preserveContent.");
        IsConsumed = !preserveContent;
        if (typeof(T) == typeof(byte[])) return (T)(object)content;
        var text = Encoding.UTF8.GetString(content);
        if (typeof(T) == typeof(string)) return (T)(object)text;
        if (typeof(JToken).IsAssignableFrom(typeof(T))) return (T)(object)JToken.Parse(text);
        throw new InvalidOperationException("The local gateway reads no body as " + typeof(T).Name + ".");
    }
}

internal sealed class Operation : IOperation
{
    public string Id { get; set; }
    public string Method { get; set; }
    public string Name { get; set; }
    public string UrlTemplate { get; set; }
}

internal sealed class Product : IProduct
{
    public string Id { get; set; }
    public string Name { get; set; }
}

internal sealed class Request : IRequest
{
    public IMessageBody Body { get; set; }
    public IReadOnlyDictionary<string, string[]> Headers { get; set; }
    public string IpAddress { get; set; }
    public IReadOnlyDictionary<string, string> MatchedParameters { get; set; }
    public string Method { get; set; }
    public IUrl OriginalUrl { get; set; }
    public IUrl Url { get; set; }
}

internal sealed class Response : IResponse
{
    public IMessageBody Body { get; set; }
    public IReadOnlyDictionary<string, string[]> Headers { get; set; }
    public int StatusCode { get; set; }
    public string StatusReason { get; set; }
}

internal sealed class Subscription : ISubscription
{
    public string Id { get; set; }
    public string Key { get; set; }
    public string Name { get; set; }
}

internal sealed class Url : IUrl
{
    public string Host { get; set; }
    public string Path { get; set; }
    public int Port { get; set; }
    public IReadOnlyDictionary<string, string[]> Query { get; set; }
    public string QueryString { get; set; }
    public string Scheme { get; set; }

    public override string ToString()
    {
        var standard = (Scheme == "http" && Port == 80) || (Scheme == "https" && Port == 443);
        return Scheme + "://" + Host + (standard ? "" : ":" + Port) + Path + QueryString;
    }
}

internal sealed class ProxyContext : IProxyContext
{
    internal readonly Dictionary<string, object> variables = new Dictionary<string, object>();
    private readonly DateTime began = DateTime.UtcNow;

    public IApi Api { get; set; }
    public IDeployment Deployment { get { return new Deployment(); } }
    public TimeSpan Elapsed { get { return DateTime.UtcNow - began; } }
    public ILastError LastError { get; set; }
    public IOperation Operation { get; set; }
    public IProduct Product { get; set; }
    public IRequest Request { get; set; }
    public Guid RequestId { get; set; }
    public IResponse Response { get; set; }
    public ISubscription Subscription { get; set; }
    public DateTime Timestamp { get { return began; } }
    public IReadOnlyDictionary<string, object> Variables { get { return variables; } }
}
